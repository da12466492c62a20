//go:build !purego

#include "textflag.h"

// func fetch(first *unsafe.Pointer, n int)
TEXT ·fetch(SB), NOSPLIT, $0-16
	MOVQ first+0(FP), SI
	MOVQ n+8(FP), CX
	TESTQ CX, CX
	JLE  done

next:
	MOVQ (SI), AX
	PREFETCHT0 (AX)
	ADDQ $8, SI
	DECQ CX
	JNZ  next

done:
	RET
