package jail

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keeperArg is the hidden first argument by which the program knows that it is
// the keeper; its control socket is descriptor 3.
const (
	keeperArg = "__bight_jail_keeper"
	keeperFD  = 3
)

// leftoverGrace is how long processes that outlive the command have after SIGTERM.
const leftoverGrace = 500 * time.Millisecond

// Main must be called first of all in the program's main function, with os.Args.
// It returns unless this process is a keeper, in which case it is one and exits.
func Main(args []string) {
	if len(args) != 2 || args[1] != keeperArg {
		return
	}
	// The command's parent-death signal belongs to the thread that starts it, and
	// capabilities to each thread: the main goroutine keeps its own.
	runtime.LockOSThread()
	file := os.NewFile(keeperFD, "control")
	conn, err := net.FileConn(file)
	if err != nil {
		os.Exit(2)
	}
	_ = file.Close()
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		os.Exit(2)
	}
	k := &keeper{ctl: newControl(unixConn), start: make(chan *message), lost: make(chan struct{})}
	os.Exit(k.run())
}

// keeper is the process inside of the namespaces. Its main goroutine starts the
// command and waits for it and for all orphans; another one serves the socket.
type keeper struct {
	ctl   *control
	start chan *message
	lost  chan struct{} // closed when the socket breaks or everything shall end

	mu      sync.Mutex
	setup   *setup
	net     *network
	volumes map[string]*volume
	pid     int  // of the command, 0 while it does not run
	ended   bool // no command may be started any more
}

func (k *keeper) run() int {
	// The keeper shares the command's process group: what the terminal or a
	// script sends to all of it is for the command. Caught signals are reset in
	// the command, ignored ones would not be.
	signal.Notify(make(chan os.Signal, 1), caught()...)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 2
	}
	go k.serve()
	select {
	case m := <-k.start:
		k.launch(m)
	case <-k.lost:
	}
	k.endAll()
	return 0
}

// caught are the signals that do nothing to the keeper.
func caught() []os.Signal {
	return []os.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGALRM, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2,
		unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGPIPE, unix.SIGCONT, unix.SIGWINCH,
	}
}

// serve answers messages until the socket breaks, which is the end of everything.
func (k *keeper) serve() {
	defer close(k.lost)
	for {
		m, file, err := k.ctl.receive()
		if file != nil {
			_ = file.Close()
		}
		if err != nil || m.Kind == kindEnd {
			k.end()
			return
		}
		if m.Kind == kindStart {
			k.start <- m
			continue
		}
		answer, fd := k.handle(m)
		answer.ID, answer.Kind = m.ID, m.Kind
		err = k.ctl.send(answer, fd)
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		if err != nil {
			k.end()
			return
		}
	}
}

// end kills the command, so that the main goroutine goes on to kill the rest.
func (k *keeper) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	if k.pid > 0 {
		_ = unix.Kill(k.pid, unix.SIGKILL)
	}
}

func (k *keeper) handle(m *message) (*message, int) {
	switch m.Kind {
	case kindSetup:
		return &message{Err: k.prepare(m.Setup)}, -1
	case kindSocket:
		fd, err := unix.Socket(m.Family, m.Type|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return &message{Err: problemOf("make a socket", err)}, -1
		}
		return &message{}, fd
	case kindMount:
		v := k.volumes[filepath.Clean(m.Mount.Path)]
		if v == nil {
			return &message{Err: problemOf("update", fmt.Errorf("no mount at %s", m.Mount.Path))}, -1
		}
		return &message{Err: problemOf("update "+m.Mount.Path, v.replace(m.Mount))}, -1
	case kindServices:
		if k.net == nil {
			return &message{}, -1
		}
		return &message{Err: problemOf("replace the known services", k.net.know(m.Services))}, -1
	case kindMachine:
		if k.net == nil || k.net.filter == nil {
			return &message{Err: problemOf("lend addresses", unix.EOPNOTSUPP)}, -1
		}
		return &message{Err: problemOf("lend addresses", k.net.filter.lend(m.Machine))}, -1
	case kindSignal:
		return &message{Err: problemOf("signal the command", k.signal(unix.Signal(m.Signal)))}, -1
	}
	return &message{Err: problemOf("understand", fmt.Errorf("unknown message %q", m.Kind))}, -1
}

// signal sends a signal to the command, and to its whole process group if that is
// not the user's own.
func (k *keeper) signal(sig unix.Signal) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.pid == 0:
		return nil
	case k.setup.Group && slices.Contains(caught(), os.Signal(sig)):
		return unix.Kill(0, sig)
	default:
		return unix.Kill(k.pid, sig)
	}
}

// prepare makes the namespaces what the command expects.
func (k *keeper) prepare(s *setup) *problem {
	k.setup = s
	n, p := makeNetwork(s)
	if p != nil {
		return p
	}
	k.net = n
	if s.Hostname != "" {
		if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
			return problemOf("set the host name", err)
		}
	}
	volumes, err := makeView(s)
	if err != nil {
		return problemOf("show the pod's files", err)
	}
	k.volumes = volumes
	return nil
}

// launch starts the command and waits for its end.
func (k *keeper) launch(m *message) {
	pid, p := k.exec()
	answer := &message{ID: m.ID, Kind: kindStart, PID: pid, Err: p}
	if p != nil {
		answer.Code = codeNotExecutable
		if errno := syscall.Errno(p.Errno); errno == unix.ENOENT || errno == unix.ENOTDIR {
			answer.Code = codeNotFound
		}
	}
	if err := k.ctl.send(answer, -1); err != nil || p != nil {
		return
	}
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, unix.WUNTRACED, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return
		case got != pid:
		case status.Stopped():
			_ = k.ctl.send(&message{Kind: kindStopped, Signal: int(status.StopSignal())}, -1)
		default:
			k.mu.Lock()
			k.pid = 0
			k.mu.Unlock()
			code := status.ExitStatus()
			if status.Signaled() {
				code = codeSignal + int(status.Signal())
			}
			_ = k.ctl.send(&message{Kind: kindExited, Code: code}, -1)
			return
		}
	}
}

// exec starts the command from this thread, after the thread has given up what
// was needed to make the namespaces.
func (k *keeper) exec() (int, *problem) {
	s := k.setup
	if s.Dir != "" {
		if err := unix.Chdir(s.Dir); err != nil {
			p := problemOf("working directory", fmt.Errorf("enter %s: %w", s.Dir, err))
			p.Errno = 0 // not the command's
			return 0, p
		}
	}
	if err := dropCapabilities(); err != nil {
		return 0, problemOf("give up capabilities", err)
	}
	program, err := lookPath(s.Command[0], s.Env)
	if err != nil {
		return 0, problemOf("", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended {
		return 0, problemOf("", unix.ECANCELED)
	}
	pid, err := syscall.ForkExec(program, s.Command, &syscall.ProcAttr{
		Env: s.Env, Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL},
	})
	if err != nil {
		return 0, problemOf("", err)
	}
	k.pid = pid
	return pid, nil
}

// lookPath finds a program as a shell with the given environment would.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, executable(name)
	}
	var path string
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v // the last one counts
		}
	}
	notFound := error(unix.ENOENT)
	for _, dir := range filepath.SplitList(path) {
		if dir == "" {
			dir = "."
		}
		candidate := filepath.Join(dir, name)
		if !strings.Contains(candidate, "/") {
			candidate = "./" + candidate
		}
		err := executable(candidate)
		if err == nil {
			return candidate, nil
		}
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			notFound = err
		}
	}
	return "", notFound
}

func executable(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		var errno syscall.Errno
		if errors.As(err, &errno) {
			return errno
		}
		return err
	}
	if st.IsDir() {
		return unix.EACCES
	}
	return unix.Access(path, unix.X_OK)
}

// endAll ends every process that is left below this one: those of the command
// that outlived it, which have come to this process as their reaper. They are
// asked first if the other side still exists, and killed after a while.
func (k *keeper) endAll() {
	deadline, lost := time.Now().Add(leftoverGrace), k.lost
	select {
	case <-lost:
		deadline, lost = time.Now(), nil
	default:
	}
	asked := map[int]bool{}
	for {
		if !reap() {
			return
		}
		late := !time.Now().Before(deadline)
		for _, pid := range children() {
			switch {
			case late:
				_ = unix.Kill(pid, unix.SIGKILL)
			case !asked[pid]:
				asked[pid] = true
				_ = unix.Kill(pid, unix.SIGTERM)
				_ = unix.Kill(pid, unix.SIGCONT)
			}
		}
		select {
		case <-lost:
			deadline, lost = time.Now(), nil
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// reap collects the children that have ended and says whether any is left.
func reap() bool {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return false
		case pid == 0:
			return true
		}
	}
}

// children returns the processes whose parent is this one.
func children() []int {
	self := os.Getpid()
	var pids []int
	for _, p := range processes() {
		if p.parent == self {
			pids = append(pids, p.pid)
		}
	}
	return pids
}
