package term

import (
	"os"
	"strconv"

	"golang.org/x/term"
)

// Detect returns the settings that suit the process's streams and environment.
// It honours NO_COLOR, CLICOLOR_FORCE, CLICOLOR, TERM, CI and COLUMNS.
func Detect(out, errs *os.File, getenv func(string) string) Config {
	outTTY, errTTY := isTerminal(out), isTerminal(errs)
	return Config{
		Out:    Stream{W: out, Color: wantColor(outTTY, getenv), Width: widthOf(out, outTTY, getenv)},
		Err:    Stream{W: errs, Color: wantColor(errTTY, getenv), Width: widthOf(errs, errTTY, getenv)},
		Redraw: wantRedraw(errTTY, getenv),
	}
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) && understandsEscapes(f) }

// wantColor follows https://no-color.org and https://bixense.com/clicolors; of
// the two, the wish for none is stronger.
func wantColor(terminal bool, getenv func(string) string) bool {
	switch {
	case getenv("NO_COLOR") != "":
		return false
	case getenv("CLICOLOR_FORCE") != "" && getenv("CLICOLOR_FORCE") != "0":
		return true
	case getenv("TERM") == "dumb", getenv("CLICOLOR") == "0":
		return false
	}
	return terminal
}

func wantRedraw(terminal bool, getenv func(string) string) bool {
	ci := getenv("CI")
	return terminal && getenv("TERM") != "dumb" && (ci == "" || ci == "0" || ci == "false")
}

// widthOf asks the terminal each time: people resize windows.
func widthOf(f *os.File, terminal bool, getenv func(string) string) func() int {
	if !terminal {
		return nil
	}
	return func() int {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			return w
		}
		if w, err := strconv.Atoi(getenv("COLUMNS")); err == nil && w > 0 {
			return w
		}
		return 80
	}
}
