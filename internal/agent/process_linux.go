package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lastWords is how long an ended process's output is waited for. It is only
// needed when something that it has started, and that left its group, still
// holds the pipe.
const lastWords = 100 * time.Millisecond

// process is one run of the command, in a process group of its own.
type process struct {
	pid     int
	started time.Time
	mark    int64         // bytes of output before it
	quiet   chan struct{} // closed when its output has ended
	up      bool          // was seen ready
	cancel  context.CancelFunc
	pipes   []*os.File
}

// spawn starts argv in the directory dir. Its output goes to stdout and stderr
// and to keep.
func spawn(argv, env []string, dir string, stdout, stderr io.Writer, keep *ring) (*process, error) {
	name, err := resolve(argv[0], env)
	if err != nil {
		return nil, err
	}
	p := &process{mark: keep.written(), quiet: make(chan struct{}), cancel: func() {}}
	var ends []*os.File // the child's
	defer func() {
		for _, f := range ends {
			_ = f.Close()
		}
	}()
	for range 2 {
		r, w, err := os.Pipe()
		if err != nil {
			p.silence()
			return nil, fmt.Errorf("start %s: %w", argv[0], err)
		}
		p.pipes, ends = append(p.pipes, r), append(ends, w)
	}
	p.started = time.Now()
	for try := 0; ; try++ {
		p.pid, err = syscall.ForkExec(name, argv, &syscall.ProcAttr{
			Dir: dir, Env: env,
			Files: []uintptr{0, ends[0].Fd(), ends[1].Fd()},
			Sys:   &syscall.SysProcAttr{Setpgid: true},
		})
		// A file that was just written is busy while a child forked meanwhile has
		// not yet let go of it.
		if !errors.Is(err, unix.ETXTBSY) || try == 20 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		p.silence()
		return nil, fmt.Errorf("start %s in %s: %w", argv[0], dir, hint(err))
	}
	var g sync.WaitGroup
	for i, to := range []io.Writer{stdout, stderr} {
		g.Go(func() { pump(p.pipes[i], to, keep) })
	}
	go func() {
		g.Wait()
		close(p.quiet)
	}()
	return p, nil
}

// resolve finds a command without a slash in the PATH that it will have.
func resolve(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, kv := range env {
		if list, ok := strings.CutPrefix(kv, "PATH="); ok {
			for _, d := range filepath.SplitList(list) {
				p := filepath.Join(d, name)
				if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
					return p, nil
				}
			}
		}
	}
	return "", fmt.Errorf("start %s: %w in $PATH", name, exec.ErrNotFound)
}

// hint says what the usual cause of an error is that the kernel has no words for.
func hint(err error) error {
	switch {
	case errors.Is(err, unix.ENOEXEC):
		return fmt.Errorf("%w: it is not a program for this machine", err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w (or the interpreter or loader that it names)", err)
	}
	return err
}

// pump copies a process's output as it comes.
func pump(from *os.File, to io.Writer, keep *ring) {
	defer from.Close()
	buf := make([]byte, 8<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			_, _ = keep.Write(buf[:n]) // never fails
			_, _ = to.Write(buf[:n])   // a reader that has gone must not stop the process
		}
		if err != nil {
			return
		}
	}
}

// silence ends the copying of output.
func (p *process) silence() {
	for _, f := range p.pipes {
		_ = f.Close()
	}
}

// hear waits for what the process said last.
func (p *process) hear() {
	t := time.NewTimer(lastWords)
	defer t.Stop()
	select {
	case <-p.quiet:
	case <-t.C:
	}
}

// signal sends sig to the process's whole group.
func (p *process) signal(sig syscall.Signal) {
	_ = syscall.Kill(-p.pid, sig) // a group that has gone needs none
}

// status is how a child ended.
type status struct {
	pid int
	ws  syscall.WaitStatus
}

// code is what a shell would report.
func code(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// reap collects every child that ends, our own and the orphans that come to the
// first process of a container, until ctx ends.
func reap(ctx context.Context, child <-chan os.Signal, ended chan<- status) {
	for {
		for {
			var ws syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			select {
			case ended <- status{pid, ws}:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-child:
		case <-ctx.Done():
			return
		}
	}
}

// killOrphans kills what earlier processes have left behind outside of their
// group: it would hold their ports. By the time a process has ended, its orphans
// are our children.
func killOrphans() {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return // no /proc, no orphans to find
	}
	for _, t := range tasks {
		b, err := os.ReadFile("/proc/self/task/" + t.Name() + "/children")
		if err != nil {
			continue
		}
		for pid := range strings.FieldsSeq(string(b)) {
			if n, err := strconv.Atoi(pid); err == nil && n > 1 {
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		}
	}
}
