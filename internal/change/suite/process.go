package suite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/diskspace"
)

// job is one program and all that it starts.
type job struct {
	dir    string
	args   []string
	env    []string
	stdout io.Writer
	stderr io.Writer
	temp   string // its temporary directory; its size is watched
	limits Limits
	time   time.Duration
}

// ended is how a job ended.
type ended struct {
	err       error // of starting or of its exit
	stop      Stop
	reason    string
	isolation string
}

// grace is how long a process has, after it was asked to say what it is doing,
// before it is killed.
const grace = 2 * time.Second

// look is how often the resources of a job are looked at. The kernel tells of none
// of them as an event; nobody waits for this.
const look = 100 * time.Millisecond

// run runs the job to its end and leaves no process of it behind.
func (j job) run(ctx context.Context) ended {
	box, err := newBox(j.limits)
	if err != nil {
		return ended{err: err}
	}
	return j.runIn(ctx, box)
}

func (j job) runIn(ctx context.Context, box *box) ended {
	defer box.close()
	cmd := exec.Command(j.args[0], j.args[1:]...)
	cmd.Dir, cmd.Env = j.dir, append(j.env, box.env()...)
	cmd.Stdout, cmd.Stderr = j.stdout, j.stderr
	// Output that a process left behind holds open is not waited for: it is killed.
	cmd.WaitDelay = grace
	if err := box.start(cmd); err != nil {
		return ended{err: fmt.Errorf("start %s: %w", j.args[0], err), isolation: box.name()}
	}
	watch, over := context.WithCancel(ctx)
	res := ended{isolation: box.name()}
	var wg sync.WaitGroup
	wg.Go(func() { res.stop, res.reason = j.watch(watch, ctx, box) })
	err := cmd.Wait()
	over()
	wg.Wait()
	box.kill()
	if !errors.Is(err, exec.ErrWaitDelay) {
		res.err = err
	}
	if res.stop == "" && res.err != nil {
		res.stop, res.reason = box.after()
	}
	if res.stop == "" && res.err != nil && size(j.temp, j.limits.Disk-1) >= j.limits.Disk {
		// One file may not outgrow the limit: the test was told that it is too large.
		res.stop, res.reason = StopDisk, j.tooMuch()
	}
	return res
}

// watch ends the job when it goes beyond a limit, and says so.
func (j job) watch(over, ctx context.Context, box *box) (Stop, string) {
	deadline := time.NewTimer(j.time)
	defer deadline.Stop()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-over.Done():
			if ctx.Err() == nil {
				return "", ""
			}
			box.kill()
			return StopCancelled, "it was cancelled"
		case <-deadline.C:
			j.dump(over, box)
			return StopTime, fmt.Sprintf("it took longer than %s", j.time)
		case <-tick.C:
			if stop, reason := j.excess(box); stop != "" {
				box.kill()
				return stop, reason
			}
		}
	}
}

// dump has Go programs print their goroutines before all is killed.
func (j job) dump(over context.Context, box *box) {
	box.quit()
	select {
	case <-over.Done():
	case <-time.After(grace):
	}
	box.kill()
}

// excess tells which limit is exceeded.
func (j job) excess(box *box) (Stop, string) {
	processes, memory := box.use()
	if processes >= j.limits.Processes {
		return StopProcesses, fmt.Sprintf("it had %d processes at once, %d are allowed", processes, j.limits.Processes)
	}
	if j.limits.Memory > 0 && memory > j.limits.Memory {
		return StopMemory, fmt.Sprintf("it used %d MiB of memory, %d are allowed", memory>>20, j.limits.Memory>>20)
	}
	for _, dir := range []string{j.temp, j.dir} {
		if free, ok := diskspace.Free(dir); ok && free < j.limits.Reserve {
			return StopDisk, fmt.Sprintf("the disk of %s has %d MiB left, %d are kept free", filepath.Base(dir), free>>20, j.limits.Reserve>>20)
		}
	}
	if n := size(j.temp, j.limits.Disk); n > j.limits.Disk {
		return StopDisk, j.tooMuch()
	}
	return "", ""
}

func (j job) tooMuch() string {
	return fmt.Sprintf("it wrote more than %d MiB of temporary files", j.limits.Disk>>20)
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

// size adds up the files below a directory, until it is beyond enough.
func size(dir string, enough int64) int64 {
	var n int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error { // what can't be read is not counted
		if err != nil || d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			n += allocated(info)
		}
		if n > enough {
			return errEnough
		}
		return nil
	})
	return n
}

// scratch is a directory that is gone after the run, also with files in it that
// nobody may write.
func scratch(parent string) (dir string, remove func(), err error) {
	if dir, err = os.MkdirTemp(parent, "bight-test-"); err != nil {
		return "", nil, fmt.Errorf("make a temporary directory for tests: %w", err)
	}
	return dir, func() {
		if os.RemoveAll(dir) == nil {
			return
		}
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error { // what resists stays
			if d != nil && d.IsDir() {
				_ = os.Chmod(path, 0o700)
			}
			return nil
		})
		_ = os.RemoveAll(dir)
	}, nil
}
