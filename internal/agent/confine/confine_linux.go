// Package confine runs a program that nobody vouches for, as the first process of a
// container, and ends it when it takes more than it may.
//
// The main entry is [Run.Do]. A container's runtime limits memory by itself; processes,
// time and files in the temporary directory are limited here, because not every cluster
// does, and because what was exceeded can then be told. One Run is for one process of
// its own: it reaps all children and kills every process that it can see.
package confine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Limits are what the program and all that it starts may take.
type Limits struct {
	Processes int           // and threads, at once
	Disk      int64         // bytes in Temp, and of any one file
	Time      time.Duration // from the start to the end
	Temp      string        // the directory whose files are counted
}

// Run is one program.
type Run struct {
	Limits
	Command []string
	// Report is the file that gets a [Stopped] as JSON when a limit ended the program.
	Report string
}

// Stopped tells which limit ended the program: time, processes or disk.
type Stopped struct {
	Stop   string `json:"stop"`
	Reason string `json:"reason"`
}

// look is how often processes and files are counted. The kernel tells of neither as an
// event; nobody waits for this.
const look = 50 * time.Millisecond

// slack is how many times ours the kernel's own limit of processes is, so that ours is the one
// that is told: a program that can make no thread ends, and all that it has started may end with
// it before anybody has looked. It takes some looks to make so many.
const slack = 2

// Do runs the program to its end, leaves no process behind and returns its exit code:
// 128 and the signal's number where a signal ended it. The error tells that it could
// not be run.
func (r *Run) Do(ctx context.Context) (int, error) {
	if len(r.Command) == 0 {
		return 0, errors.New("no command: name it after --")
	}
	if os.Getpid() != 1 {
		return 0, errors.New("it kills every process that it sees, so it runs as the first process of a container and nowhere else")
	}
	if err := r.lower(); err != nil {
		return 0, err
	}
	p, err := os.StartProcess(r.Command[0], r.Command, &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{nil, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", r.Command[0], err)
	}
	over, end := context.WithCancel(ctx)
	var stopped *Stopped
	var watching sync.WaitGroup
	watching.Go(func() {
		if stopped = r.watch(over); stopped != nil || ctx.Err() != nil {
			killAll()
		}
	})
	code, err := reap(p.Pid)
	end()
	watching.Wait()
	if stopped == nil && code != 0 {
		stopped = r.exceeded() // and ended by that before anybody looked
	}
	killAll()
	_, _ = reap(-1) // there may be none left
	if stopped != nil {
		b, _ := json.Marshal(stopped)
		return code, errors.Join(err, os.WriteFile(r.Report, b, 0o644))
	}
	return code, err
}

// lower sets the limits that the kernel holds, for this process and what it starts.
// That of processes counts all of one user on the node, so each container has a user
// of its own.
func (r *Run) lower() error {
	for _, l := range []struct {
		what  int
		value uint64
	}{
		{unix.RLIMIT_NPROC, uint64(slack * r.Processes)},
		{unix.RLIMIT_FSIZE, uint64(r.Disk + r.Disk/8 + 1<<20)}, // likewise
		{unix.RLIMIT_CORE, 0},
	} {
		if err := unix.Setrlimit(l.what, &unix.Rlimit{Cur: l.value, Max: l.value}); err != nil {
			return fmt.Errorf("set a limit: %w", err)
		}
	}
	return nil
}

// reap waits for children until the one given has ended, or with -1 until there is none.
func reap(pid int) (code int, err error) {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ECHILD) && pid == -1:
			return 0, nil
		case err != nil:
			return 0, fmt.Errorf("wait for the command: %w", err)
		case got == pid && status.Signaled():
			return 128 + int(status.Signal()), nil
		case got == pid && status.Exited():
			return status.ExitStatus(), nil
		}
	}
}

// killAll kills every process but this one: the kernel goes through them without letting
// any of them fork.
func killAll() { _ = unix.Kill(-1, unix.SIGKILL) } // there may be none

// watch returns the limit that is exceeded, or nil when over ends.
func (r *Run) watch(over context.Context) *Stopped {
	deadline := time.NewTimer(r.Time)
	defer deadline.Stop()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-over.Done():
			return nil
		case <-deadline.C:
			return &Stopped{"time", fmt.Sprintf("it took longer than %s", r.Time)}
		case <-tick.C:
		}
		if s := r.exceeded(); s != nil {
			return s
		}
		if n%5 == 0 && size(r.Temp, r.Disk) > r.Disk {
			return &Stopped{"disk", fmt.Sprintf("it wrote more than %d MiB of temporary files", r.Disk>>20)}
		}
	}
}

// exceeded tells whether there are too many processes at the moment.
func (r *Run) exceeded() *Stopped {
	if tasks("/proc") <= r.Processes {
		return nil
	}
	return &Stopped{"processes", fmt.Sprintf("it had more than %d processes and threads at once", r.Processes)}
}

// tasks counts the threads of all processes but the first.
func tasks(proc string) int {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err != nil || pid == 1 {
			continue
		}
		b, err := os.ReadFile(filepath.Join(proc, e.Name(), "stat"))
		if err != nil {
			continue // it has ended
		}
		n += threads(string(b))
	}
	return n
}

// threads reads the number of threads from a process's stat. Its second field, the
// program's name in parentheses, may hold anything.
func threads(stat string) int {
	const field = 17 // after the name
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(f) <= field {
		return 1
	}
	n, err := strconv.Atoi(f[field])
	if err != nil {
		return 1
	}
	return n
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

// size adds up what the files below a directory take, until it is beyond enough.
func size(dir string, enough int64) int64 {
	var n int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error { // what can't be read is not counted
		if err != nil || d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				n += st.Blocks * 512
			}
		}
		if n > enough {
			return errEnough
		}
		return nil
	})
	return n
}
