//go:build !purego

#include "textflag.h"

// FF1 chains its ten rounds through 32-bit words inside AES blocks. Through
// crypto/aes every round would store a word and load the 16 bytes around it,
// which the processor cannot forward; here the chain stays in a register.

// yMask takes bytes 4 to 7 of R, big-endian, to lane 3 as an integer.
DATA yMask<>+0(SB)/8, $0x8080808080808080
DATA yMask<>+8(SB)/8, $0x0405060780808080
GLOBL yMask<>(SB), (NOPTR+RODATA), $16

// bMask writes the integer in lane 3 to bytes 12 to 15, big-endian.
DATA bMask<>+0(SB)/8, $0x8080808080808080
DATA bMask<>+8(SB)/8, $0x0c0d0e0f80808080
GLOBL bMask<>(SB), (NOPTR+RODATA), $16

// roundStep is 1 in byte 11, the round number's place in Q.
DATA roundStep<>+0(SB)/8, $0
DATA roundStep<>+8(SB)/8, $0x0000000001000000
GLOBL roundStep<>(SB), (NOPTR+RODATA), $16

// lastRound is 9 in byte 11.
DATA lastRound<>+0(SB)/8, $0
DATA lastRound<>+8(SB)/8, $0x0000000009000000
GLOBL lastRound<>(SB), (NOPTR+RODATA), $16

#define AES_ROUND(off) \
	MOVUPS off(AX), X1; \
	AESENC X1, X0

// AES_BLOCK encrypts X0, to which round key 0 was added already.
#define AES_BLOCK \
	AES_ROUND(16); AES_ROUND(32); AES_ROUND(48); AES_ROUND(64); \
	AES_ROUND(80); AES_ROUND(96); AES_ROUND(112); AES_ROUND(128); \
	AES_ROUND(144); AES_ROUND(160); AES_ROUND(176); AES_ROUND(192); \
	AES_ROUND(208); \
	MOVUPS 224(AX), X1; \
	AESENCLAST X1, X0

// LOAD sets AX to the round keys, X4 to Q for round 0 and B = 0 with round
// key 0 added, X5 to A and X6 to B in lane 3, X9 to X11 to the constants.
#define LOAD \
	MOVQ xk+0(FP), AX; \
	MOVQ q0+8(FP), X4; \
	MOVHPS q1+16(FP), X4; \
	MOVUPS (AX), X1; \
	PXOR X1, X4; \
	MOVQ x+24(FP), X6; \
	PSHUFD $0x55, X6, X5; \
	PSHUFD $0x00, X6, X6; \
	MOVOU roundStep<>(SB), X9; \
	MOVOU yMask<>(SB), X10; \
	MOVOU bMask<>(SB), X11; \
	MOVQ $10, CX

// JOIN sets BX to A ‖ B.
#define JOIN \
	PSRLDQ $12, X5; \
	PSRLDQ $12, X6; \
	MOVQ X5, BX; \
	MOVQ X6, DX; \
	SHLQ $32, BX; \
	ORQ DX, BX

// func encryptRounds(xk *[240]byte, q0, q1, x uint64) uint64
TEXT ·encryptRounds(SB), NOSPLIT, $0-40
	LOAD
	PXOR X8, X8

encrypt:
	MOVOU X6, X0
	PSHUFB X11, X0
	MOVOU X4, X7
	PXOR X8, X7
	PXOR X7, X0
	AES_BLOCK
	PSHUFB X10, X0
	PADDL X5, X0  // A + y
	MOVOU X6, X5  // A = B
	MOVOU X0, X6  // B = C
	PADDL X9, X8
	DECQ CX
	JNZ encrypt
	JOIN
	MOVQ BX, ret+32(FP)
	RET

// func decryptRounds(xk *[240]byte, q0, q1, x uint64) uint64
TEXT ·decryptRounds(SB), NOSPLIT, $0-40
	LOAD
	MOVOU lastRound<>(SB), X8

decrypt:
	MOVOU X5, X0
	PSHUFB X11, X0
	MOVOU X4, X7
	PXOR X8, X7
	PXOR X7, X0
	AES_BLOCK
	PSHUFB X10, X0
	PSUBL X0, X6  // B - y
	MOVOU X6, X0
	MOVOU X5, X6  // B = A
	MOVOU X0, X5  // A = C
	PSUBL X9, X8
	DECQ CX
	JNZ decrypt
	JOIN
	MOVQ BX, ret+32(FP)
	RET

// FOLD adds to r its own words, shifted by one, two and three, and X1.
#define FOLD(r) \
	MOVOU r, X4; \
	PSLLDQ $4, X4; \
	PXOR X4, r; \
	PSLLDQ $4, X4; \
	PXOR X4, r; \
	PSLLDQ $4, X4; \
	PXOR X4, r; \
	PXOR X1, r

#define EVEN(rcon, off) \
	AESKEYGENASSIST $rcon, X3, X1; \
	PSHUFD $0xff, X1, X1; \
	FOLD(X0); \
	MOVUPS X0, off(BX)

#define ODD(off) \
	AESKEYGENASSIST $0, X0, X1; \
	PSHUFD $0xaa, X1, X1; \
	FOLD(X3); \
	MOVUPS X3, off(BX)

// func expandKey(xk *[240]byte, key *[32]byte)
TEXT ·expandKey(SB), NOSPLIT, $0-16
	MOVQ xk+0(FP), BX
	MOVQ key+8(FP), AX
	MOVUPS (AX), X0
	MOVUPS 16(AX), X3
	MOVUPS X0, (BX)
	MOVUPS X3, 16(BX)
	EVEN(0x01, 32)
	ODD(48)
	EVEN(0x02, 64)
	ODD(80)
	EVEN(0x04, 96)
	ODD(112)
	EVEN(0x08, 128)
	ODD(144)
	EVEN(0x10, 160)
	ODD(176)
	EVEN(0x20, 192)
	ODD(208)
	EVEN(0x40, 224)
	RET
