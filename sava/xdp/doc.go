// Package xdp is package sava's fast path in the kernel: a program at each port
// that knows the same bindings, and what joins it to user space.
//
// Load attaches the programs and pins them, their bindings and their counters in
// the BPF file system, so that they go on enforcing when the process that loaded
// them ends, and another one finds them.
package xdp

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang -target bpfel -output-stem filter objects filter.c -- -O2 -g -Wall -Werror
