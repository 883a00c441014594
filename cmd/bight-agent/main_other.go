//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bight-agent runs inside pods, on Linux: build it with GOOS=linux")
	os.Exit(1)
}
