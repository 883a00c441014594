package bridge

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func init() { roles["plain"], roles["told"] = bePlain, beTold }

// bePlain runs a command until it is interrupted, as bight run does on this machine.
func bePlain() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	o := &Order{Command: []string{"/proc/self/exe"}, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	code, err := o.here(ctx, []string{"BE=told"})
	fmt.Println("code", code)
	return err
}

// beTold says which signals come, and ends with SIGTERM as though all were well.
func beTold() error {
	signals := make(chan os.Signal, 10)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	fmt.Println("ready")
	for s := range signals {
		fmt.Println(s)
		if s == syscall.SIGTERM {
			return nil
		}
	}
	return nil
}

// newTerminal opens a terminal: who types and looks has the first end.
func newTerminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = person.Close() })
	raw, err := person.SyscallConn()
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
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return person, program
}

// The terminal tells the command of Ctrl-C, so that we must not. A command that goes on is
// told to end, and its end is its own.
func TestCtrlCComesOnce(t *testing.T) {
	t.Parallel()
	person, program := newTerminal(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"BE=plain"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if err := person.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var said []string
	for lines := bufio.NewScanner(person); lines.Scan(); {
		line := strings.TrimPrefix(lines.Text(), "^C")
		said = append(said, line)
		if line == "ready" {
			if _, err := io.WriteString(person, "\x03"); err != nil {
				t.Fatal(err)
			}
		}
		if strings.HasPrefix(line, "code ") {
			break
		}
	}
	if diff := cmp.Diff([]string{"ready", "interrupt", "terminated", "code 0"}, said); diff != "" {
		t.Errorf("the terminal shows (-want +got):\n%s", diff)
	}
}

func TestTheCodeIsTheCommandsThoughItWasToldToEnd(t *testing.T) {
	for _, test := range []struct {
		name, script string
		want         int
	}{
		{"all is well", `trap 'exit 0' TERM; echo ready; while :; do sleep 0.02; done`, 0},
		{"it fails", `trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done`, 3},
		{"it knows nothing of signals", `echo ready; exec sleep 60`, 128 + 15},
	} {
		for _, input := range []string{"", os.DevNull} {
			t.Run(test.name+", input "+input, func(t *testing.T) {
				t.Parallel()
				out, in, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				defer out.Close()
				o := &Order{Command: []string{"sh", "-c", test.script}, Stdout: in}
				if input != "" {
					if o.Stdin, err = os.Open(input); err != nil {
						t.Fatal(err)
					}
					defer o.Stdin.Close()
				}
				ctx, cancel := context.WithCancel(t.Context())
				go func() {
					defer cancel()
					_, _ = bufio.NewReader(out).ReadString('\n') // it is ready
				}()
				code, err := o.here(ctx, os.Environ())
				_ = in.Close()
				if code != test.want || err != nil {
					t.Errorf("it ends with %d, %v, want %d", code, err, test.want)
				}
			})
		}
	}
}
