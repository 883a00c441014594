package jail

import (
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// terminal is how the command shares the user's. There are three cases.
//
// Where the command's input and output are the terminal and this process is in
// the foreground, the command and its keeper get a process group of their own and
// the foreground: Ctrl-C and Ctrl-Z are for the command, a shell can do job
// control, and a stop of the command is passed on to this process's group.
//
// With a terminal that is not all ours (a pipeline, a background job) the command
// stays in this process's group, as any child does.
//
// Without a terminal it gets a group of its own.
type terminal struct {
	file  *os.File // of the first case
	own   int      // this process's group
	group int      // the command's, once there is one
	alone bool     // the command has a group of its own
}

func openTerminal(cfg *Config) *terminal {
	t := &terminal{own: unix.Getpgrp()}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		t.alone = true
		return t
	}
	foreground, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	if err != nil || foreground != t.own || !isTerminal(cfg.Stdin) || !isTerminal(cfg.Stdout) {
		_ = tty.Close()
		return t
	}
	t.file, t.alone = tty, true
	return t
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// give gives the foreground to the command's group.
func (t *terminal) give(group int) error {
	if t.file == nil {
		return nil
	}
	t.group = group
	return setForeground(t.file, group)
}

// take takes the foreground back.
func (t *terminal) take() {
	if t.file != nil {
		_ = setForeground(t.file, t.own)
	}
}

func (t *terminal) close() {
	if t.file != nil {
		_ = t.file.Close()
	}
}

// stopped passes a stop of the command on to whoever waits for this process, and
// returns when both go on.
func (t *terminal) stopped() {
	if t.file == nil {
		return
	}
	if watched(t.own) {
		t.take()
		resumed := make(chan os.Signal, 1)
		signal.Notify(resumed, unix.SIGCONT)
		// The signal stops every thread of this process, this one at any moment
		// from here on.
		_ = unix.Kill(0, unix.SIGSTOP)
		<-resumed
		signal.Stop(resumed)
		if now, err := unix.IoctlGetInt(int(t.file.Fd()), unix.TIOCGPGRP); err == nil && now == t.own {
			_ = setForeground(t.file, t.group)
		}
	}
	_ = unix.Kill(-t.group, unix.SIGCONT)
}

// watched says whether a shell would notice if the group stopped: one of its
// processes has a parent in the same session but another group.
func watched(group int) bool {
	p, ok := readProcess(os.Getpid())
	for ok && p.pid > 1 {
		parent, seen := readProcess(p.parent)
		if !seen || parent.session != p.session {
			return false
		}
		if parent.group != group {
			return true
		}
		p = parent
	}
	return false
}

// setForeground makes group the terminal's foreground. A process in the
// background may do that only while it blocks SIGTTOU.
func setForeground(tty *os.File, group int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var block, old unix.Sigset_t
	const bits = 64
	block.Val[(unix.SIGTTOU-1)/bits] |= 1 << ((unix.SIGTTOU - 1) % bits)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &block, &old); err != nil {
		return err
	}
	defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil) }()
	return unix.IoctlSetPointerInt(int(tty.Fd()), unix.TIOCSPGRP, group)
}
