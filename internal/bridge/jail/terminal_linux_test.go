package jail

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// screen is a terminal with a program in it, and a person who types.
type screen struct {
	t      *testing.T
	master *os.File

	mu   sync.Mutex
	text string
	seen int // how much of text has been waited for
	more chan struct{}
}

func newScreen(t *testing.T, env []string, command ...string) *screen {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	number := 0
	if err := raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, master: master, more: make(chan struct{}, 1)}
	var reading sync.WaitGroup
	reading.Go(s.read)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = master.Close()
		reading.Wait()
	})
	return s
}

func (s *screen) read() {
	buf := make([]byte, 4096)
	for {
		n, err := s.master.Read(buf)
		s.mu.Lock()
		s.text += string(buf[:n])
		s.mu.Unlock()
		select {
		case s.more <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (s *screen) types(text string) {
	s.t.Helper()
	if _, err := s.master.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}

// shows waits until text appears after what was waited for before.
func (s *screen) shows(text string) {
	s.t.Helper()
	deadline := time.After(15 * time.Second)
	for {
		s.mu.Lock()
		i := strings.Index(s.text[s.seen:], text)
		if i >= 0 {
			s.seen += i + len(text)
		}
		all := s.text
		s.mu.Unlock()
		if i >= 0 {
			return
		}
		select {
		case <-s.more:
		case <-deadline:
			s.t.Fatalf("%q did not appear on\n%s", text, all)
		}
	}
}

func TestCtrlCIsForTheCommand(t *testing.T) {
	s := newScreen(t, []string{"JAIL_TEST_ROLE=nested"}, os.Args[0], "sh", "-c", `trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.02; done`)
	s.shows("ready")
	s.types("\x03")
	s.shows("caught")
	s.shows("code 9")
}

func TestCtrlZStopsAndContinues(t *testing.T) {
	s := newScreen(t, []string{"PS1=outer> ", "TERM=dumb"}, "bash", "--norc", "--noprofile", "-i")
	s.shows("outer> ")
	s.types("JAIL_TEST_ROLE=nested " + os.Args[0] + ` sh -c 'echo be"gun"; read x; echo "got <$x>"'` + "\n")
	s.shows("begun")
	s.types("\x1a")
	s.shows("Stopped")
	s.types("echo $((40+2))\n")
	s.shows("42")
	s.types("fg\n")
	s.shows("sh -c")
	s.types("hello\n")
	s.shows("got <hello>")
	s.shows("code 0")
	s.types("echo $((40+3))\n")
	s.shows("43")
}

func TestCtrlZWithoutAShellIsHarmless(t *testing.T) {
	s := newScreen(t, []string{"JAIL_TEST_ROLE=nested"}, os.Args[0], "sh", "-c", `echo be"gun"; read x; echo "got <$x>"`)
	s.shows("begun")
	s.types("\x1a")
	s.types("hello\n")
	s.shows("got <hello>")
	s.shows("code 0")
}

func TestAShellInsideHasJobControl(t *testing.T) {
	s := newScreen(t, []string{"PS1=outer> ", "TERM=dumb"}, "bash", "--norc", "--noprofile", "-i")
	s.shows("outer> ")
	s.types("JAIL_TEST_ROLE=nested PS1='in''ner> ' " + os.Args[0] + " bash --norc --noprofile -i\n")
	s.shows("inner> ")
	s.types(`sh -c 'echo ru"n"; read x; echo "x$x"'` + "\n")
	s.shows("run")
	s.types("\x1a")
	s.shows("Stopped")
	s.shows("inner> ")
	s.types("fg\n")
	s.types("yz\n")
	s.shows("xyz")
	s.shows("inner> ")
	s.types(`sh -c 'echo ru"n"; exec sleep 1000'` + "\n")
	s.shows("run")
	s.types("\x03")
	s.shows("inner> ")
	s.types("exit 6\n")
	s.shows("code 6")
	s.shows("outer> ")
	s.types("echo $((40+4))\n")
	s.shows("44")
}

func TestInAPipelineTheTerminalStaysTheUsers(t *testing.T) {
	s := newScreen(t, []string{"PS1=outer> ", "TERM=dumb"}, "bash", "--norc", "--noprofile", "-i")
	s.shows("outer> ")
	s.types("JAIL_TEST_ROLE=nested " + os.Args[0] + ` sh -c 'echo piped' | (read a; read b < /dev/tty; echo "$a/$b")` + "\n")
	s.types("typed\n")
	s.shows("piped/typed")
	s.types("echo $((40+5))\n")
	s.shows("45")
}
