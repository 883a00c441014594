package term

import (
	"os"

	"golang.org/x/sys/windows"
)

// understandsEscapes asks the console to act on escape sequences.
func understandsEscapes(f *os.File) bool {
	h := windows.Handle(f.Fd())
	var mode uint32
	if windows.GetConsoleMode(h, &mode) != nil {
		return false
	}
	return windows.SetConsoleMode(h, mode|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING) == nil
}
