package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone is why a process can't be held on to.
var ErrGone = errors.New("the process has ended")

// Process is one process, whatever becomes of its number.
type Process struct {
	PID int
	fd  *os.File // a pidfd
}

// Open holds on to a running process. The caller closes it.
func Open(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("hold on to process %d: %w", pid, err)
	}
	if hasEnded(uintptr(fd)) {
		unix.Close(fd)
		return nil, ErrGone
	}
	// A file that does not block is waited for by the runtime's poller, which no
	// thread has to do.
	return &Process{PID: pid, fd: os.NewFile(uintptr(fd), fmt.Sprintf("process %d", pid))}, nil
}

// Close lets go of the process.
func (p *Process) Close() error { return p.fd.Close() }

// Signal sends a signal. A process that has ended is no error.
func (p *Process) Signal(signal syscall.Signal) error {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), signal, nil, 0) })
	if errors.Is(sent, unix.ESRCH) {
		sent = nil
	}
	return errors.Join(err, sent)
}

// Wait returns when the process has ended, or with ctx's error. The first process
// of a PID namespace ends after all others of it. One Wait at a time.
func (p *Process) Wait(ctx context.Context) error {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	if err := p.fd.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.fd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = conn.Read(hasEnded)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// hasEnded reports whether a pidfd's process has. One that its parent has not
// collected yet has too.
func hasEnded(fd uintptr) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n > 0
}

// Identity tells a process from every other that ever had its number.
type Identity struct {
	PID   int
	Start uint64 // clock ticks from boot
	Boot  string // which boot
}

// Self is this process as the machine knows it: pid counts in the PID namespace
// that the mounted /proc belongs to.
func Self() (Identity, error) {
	link, err := os.Readlink("/proc/self")
	if err != nil {
		return Identity{}, fmt.Errorf("find this process's number: %w", err)
	}
	var pid int
	if _, err := fmt.Sscan(link, &pid); err != nil {
		return Identity{}, fmt.Errorf("find this process's number: %w", err)
	}
	return Identify(pid)
}

// Identify returns the identity of a running process.
func Identify(pid int) (Identity, error) {
	stat, err := ReadStat(pid)
	if err != nil {
		return Identity{}, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Identity{}, err
	}
	return Identity{PID: pid, Start: stat.Start, Boot: strings.TrimSpace(string(boot))}, nil
}

// String is what ParseIdentity reads.
func (i Identity) String() string { return fmt.Sprintf("%d %d %s", i.PID, i.Start, i.Boot) }

// Save writes the identity to file, whole or not at all.
func (i Identity) Save(file string) error {
	tmp := fmt.Sprintf("%s.%d", file, os.Getpid())
	if err := os.WriteFile(tmp, []byte(i.String()+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}

// ParseIdentity reads what String wrote.
func ParseIdentity(s string) (Identity, error) {
	var i Identity
	if _, err := fmt.Sscan(s, &i.PID, &i.Start, &i.Boot); err != nil {
		return Identity{}, fmt.Errorf("read the identity of a process: %w", err)
	}
	return i, nil
}

// Open holds on to the process, if it is still that one.
func (i Identity) Open() (*Process, error) {
	p, err := Open(i.PID)
	if err != nil {
		return nil, err
	}
	// It is looked at after it is held, so that it can't be another one by then.
	if now, err := Identify(i.PID); err != nil || now != i {
		p.Close()
		return nil, ErrGone
	}
	return p, nil
}
