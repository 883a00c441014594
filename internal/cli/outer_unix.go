//go:build unix

package cli

import (
	"fmt"
	"os"
	"syscall"
)

// become replaces this program by another: signals, exit code and process are its own
// then.
func (p *Program) become(program string, args []string) error {
	err := syscall.Exec(program, append([]string{os.Args[0]}, args...), os.Environ())
	return fmt.Errorf("start %s: %w", program, err)
}
