package suite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// lines passes text on to the log and keeps its first and last lines.
type lines struct {
	log io.Writer

	mu   sync.Mutex
	line []byte
	kept tall
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := p; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			l.line = append(l.line, rest[:min(len(rest), max(0, longest-len(l.line)))]...)
			break
		}
		l.line = append(l.line, rest[:min(i, max(0, longest-len(l.line)))]...)
		l.kept.add(string(l.line))
		l.line = l.line[:0]
		rest = rest[i+1:]
	}
	return l.log.Write(p)
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.line) > 0 {
		l.kept.add(string(l.line))
		l.line = nil
	}
	return l.kept.all()
}

// command runs a service's own tests, and once more when they failed: those that
// pass then are flaky.
func (r *run) command(ctx context.Context, u Unit, temp string) error {
	res, err := r.commandOnce(ctx, u, temp)
	if err != nil {
		return err
	}
	if names := failing(res.Tests); res.Status == Failed && len(names) > 0 && len(names) <= reruns {
		_, _ = fmt.Fprintf(r.log, "--- the tests of %s failed; once more\n", u.Name) // the log's error comes with the tests' output
		second, err := r.commandOnce(ctx, u, temp)
		if err != nil {
			return err
		}
		still := failing(second.Tests)
		var flaky []string
		for _, n := range names {
			if second.Status != Stopped && !slices.Contains(still, n) && slices.ContainsFunc(second.Tests, func(t Test) bool { return top(t.Name) == n }) {
				flaky = append(flaky, n)
			}
		}
		if err := r.judge(ctx, u, &res, names, flaky); err != nil {
			return err
		}
	}
	r.keep(ctx, res)
	return nil
}

func (r *run) commandOnce(ctx context.Context, u Unit, temp string) (UnitResult, error) {
	temp, remove, err := scratch(temp)
	if err != nil {
		return UnitResult{}, err
	}
	defer remove()
	out := &lines{log: r.log}
	j, err := r.job(filepath.Join(r.root, u.Dir), temp, out, out, r.limits.Test, "sh", "-c", u.Command)
	if err != nil {
		return UnitResult{}, err
	}
	began := time.Now()
	end := j.run(ctx)
	r.result.Isolation = end.isolation
	res := UnitResult{Name: u.Name, Kind: u.Kind, Dir: u.Dir, Key: u.Key, Status: Passed, Seconds: time.Since(began).Seconds()}
	var exit *exec.ExitError
	switch {
	case end.stop != "":
		res.Status, res.Stop, res.Reason = Stopped, end.stop, end.reason
	case errors.As(end.err, &exit):
		res.Status, res.Reason = Failed, "its command ended with "+exit.Error()
	case end.err != nil:
		return res, fmt.Errorf("run the tests of %s: %w", u.Name, end.err)
	}
	if res.Status != Passed {
		res.Output = out.all()
	}
	if u.Report != "" && res.Status != Stopped {
		r.reports(u, began, &res)
	}
	if len(res.Tests) == 0 {
		res.Tests = []Test{{Name: wholeCommand, Status: res.Status, Seconds: res.Seconds}}
	}
	return res, nil
}

// wholeCommand is the name of the one test that a command without a report is.
const wholeCommand = "command"

// largest is how large a report may be.
const largest = 64 << 20

// reports reads the JUnit files that a command wrote, without following links out
// of its directory.
func (r *run) reports(u Unit, since time.Time, res *UnitResult) {
	root, err := os.OpenRoot(filepath.Join(r.root, u.Dir))
	if err != nil {
		r.note("reports of %s: %v", u.Name, err)
		return
	}
	defer root.Close()
	names, err := fs.Glob(root.FS(), filepath.ToSlash(filepath.Clean(u.Report)))
	if err != nil {
		r.note("reports of %s: %v", u.Name, err)
	}
	for _, name := range names {
		tests, err := report(root, name, since)
		if err != nil {
			r.note("report %s of %s: %v", name, u.Name, err)
			continue
		}
		res.Tests = append(res.Tests, tests...)
	}
	if len(res.Tests) == 0 {
		r.note("the tests of %s wrote no report %s", u.Name, u.Report)
	}
	if res.Status == Passed && len(failing(res.Tests)) > 0 {
		res.Status, res.Reason = Failed, "its command succeeded, its report tells of failed tests"
	}
}

func report(root *os.Root, name string, since time.Time) ([]Test, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.ModTime().Before(since.Add(-2*time.Second)) {
		return nil, errors.New("it is not of this run")
	}
	return ReadJUnit(io.LimitReader(f, largest))
}
