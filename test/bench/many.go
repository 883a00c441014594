package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const burstFiles = 5000

// burst measures 5,000 files that change at once, as a git checkout does it,
// against tar of the same files through kubectl exec.
func burst(ctx context.Context, b *bed) ([]row, error) {
	removeBox, err := b.box(ctx, "bench-box")
	if err != nil {
		return nil, err
	}
	defer removeBox()
	dir, err := b.write("burst", siteOf(burstFiles+len(site())))
	if err != nil {
		return nil, err
	}
	tree, err := b.write("burst-tar", smallFiles("pages", burstFiles, marker(0)))
	if err != nil {
		return nil, err
	}
	s, err := b.up(ctx, dir, "bench-burst")
	if err != nil {
		return nil, err
	}
	defer s.close()
	last := fmt.Sprintf("pages/%03d/%05d.html", (burstFiles-1)/100, burstFiles-1)
	ask, err := s.page("burst", "/"+last)
	if err != nil {
		return nil, err
	}
	var whole []time.Duration // from the first file's write
	ours := func(ctx context.Context, round int) (time.Duration, error) {
		began := time.Now()
		took, err := s.rewrite(ctx, round+1, last, ask)
		if err != nil {
			return 0, err
		}
		if round > 0 {
			whole = append(whole, time.Since(began))
		}
		return s.confirmed(ctx, took)
	}
	all, err := b.alternate(ctx, []string{"tar", "burst"}, b.execTar("bench-box", tree), ours)
	if err != nil {
		return nil, err
	}
	events, err := s.syncs("burst", 0)
	if err != nil {
		return nil, err
	}
	reference := durations("tar of the same files, piped through kubectl exec into a directory in memory", all[0])
	name := fmt.Sprintf("burst of %d files", burstFiles)
	return []row{
		{Name: name + " → in sync", Reference: &reference, Limit: 0.5, Phases: phases(events),
			Ours: durations("from the last of the files written until it is served; all were compared by hash after it", all[1])},
		{Name: name + ", from the first write", Reference: &reference,
			Ours: durations("the same, with the time that writing the files takes on this machine", whole)},
	}, nil
}

// rewrite changes all files of the burst, the last one last, and returns how long
// it took from when that was done until the last one was served.
func (s *session) rewrite(ctx context.Context, round int, last string, ask asker) (time.Duration, error) {
	m := marker(round)
	files := smallFiles("pages", burstFiles, m)
	for path, content := range files {
		if path == last {
			continue
		}
		if err := os.WriteFile(filepath.Join(s.dir, path), []byte(content), 0o644); err != nil {
			return 0, err
		}
	}
	return save(ctx, filepath.Join(s.dir, last), files[last], m, probeFile, ask)
}

// confirmed returns took when bight status confirms at once that every file is as
// it is here. Else the last of the files was not the last to be live, and what
// counts is the time until all are.
func (s *session) confirmed(ctx context.Context, took time.Duration) (time.Duration, error) {
	began := time.Now()
	if s.inSync(ctx) == nil {
		return took, nil
	}
	err := poll(ctx, 100*time.Millisecond, func() error { return s.inSync(ctx) })
	return took + time.Since(began), err
}

// How large the app of the rows about size is.
const (
	manyFiles  = 50_000
	manyNumber = 50
)

// idle measures what a session uses that watches 50,000 files of one service
// while nothing changes.
func idle(ctx context.Context, b *bed) ([]row, error) {
	files := siteOf(manyFiles)
	dir, err := b.write("idle", files)
	if err != nil {
		return nil, err
	}
	s, err := b.up(ctx, dir, "bench-idle")
	if err != nil {
		return nil, err
	}
	defer s.close()
	rows, err := s.idleRows(ctx, fmt.Sprintf("idle session, %d files of one service watched", len(files)))
	if err != nil {
		return rows, err
	}
	page, err := s.page("idle", "/index.html")
	if err != nil {
		return rows, err
	}
	all, err := b.alternate(ctx, []string{"page"}, s.saved("index.html", pageSource, page))
	if err != nil {
		return rows, err
	}
	events, err := s.syncs("idle", 0)
	return append(rows, row{
		Name: fmt.Sprintf("static page: save → served, %d files in one service", len(files)), Phases: phases(events),
		Ours: durations("save of index.html of a site of that many files", all[0]),
	}), err
}

// idleRows watches a session in three windows.
func (s *session) idleRows(ctx context.Context, name string) ([]row, error) {
	processor := series{What: fmt.Sprintf("processor time of bight up in three windows of %s", s.bed.window), Unit: "% of a core"}
	memory := series{What: "its resident memory at the end of each", Unit: "MB"}
	wait(ctx, 10*time.Second) // what starting it up left to do
	for range 3 {
		before, err := processUsage(s.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		began := time.Now()
		wait(ctx, s.bed.window)
		after, err := processUsage(s.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		processor.Values = append(processor.Values, 100*float64(after.processor-before.processor)/float64(time.Since(began)))
		memory.Values = append(memory.Values, megabytes(after.resident))
	}
	return []row{
		{Name: name + ": processor", Ours: processor, Limit: 0.5},
		{Name: name + ": memory", Ours: memory, Limit: 100},
	}, ctx.Err()
}

func megabytes(n int64) float64 { return float64(n) / 1e6 }

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// manyServices measures saves in an app of 50 services and 50,000 files, against
// the same saves in an app of one service, and what its session uses when idle.
func manyServices(ctx context.Context, b *bed) ([]row, error) {
	dirs := map[string]string{}
	for name, files := range map[string]map[string]string{
		"many": manySources(manyNumber, manyFiles), "one-site": oneSite(), "one-go": oneService(),
	} {
		dir, err := b.write(name, files)
		if err != nil {
			return nil, err
		}
		dirs[name] = dir
	}
	var asks []action
	var sessions []*session
	for _, v := range []struct {
		app, service, file, path string
		source                   func(string) string
	}{
		{"one-site", "one-site", "index.html", "/index.html", pageSource},
		{"many", "site-00", "sites/site-00/index.html", "/index.html", pageSource},
		{"one-go", "go-00", "cmd/go-00/main.go", "/", oneOfMany},
		{"many", "go-00", "cmd/go-00/main.go", "/", oneOfMany},
	} {
		var s *session
		for _, known := range sessions {
			if known.dir == dirs[v.app] {
				s = known
			}
		}
		if s == nil {
			var err error
			if s, err = b.up(ctx, dirs[v.app], "bench-"+v.app); err != nil {
				return nil, err
			}
			defer s.close()
			sessions = append(sessions, s)
		}
		ask, err := s.page(v.service, v.path)
		if err != nil {
			return nil, err
		}
		asks = append(asks, s.saved(v.file, v.source, ask))
	}
	many := sessions[1]
	all, err := b.alternate(ctx, []string{"page, one service", "page, many", "Go, one service", "Go, many"}, asks...)
	if err != nil {
		return nil, err
	}
	rows, err := manyRows(many, all)
	if err != nil {
		return nil, err
	}
	more, err := many.idleRows(ctx, fmt.Sprintf("idle session, %d services and %d files watched", manyNumber, manyFiles))
	return append(rows, more...), err
}

func manyRows(many *session, all [][]time.Duration) ([]row, error) {
	pages, err := many.syncs("site-00", 0)
	if err != nil {
		return nil, err
	}
	programs, err := many.syncs("go-00", 0)
	if err != nil {
		return nil, err
	}
	one := durations("the same save in an app of this one site", all[0])
	oneGo := durations("the same save in an app of this one service", all[2])
	name := fmt.Sprintf("with %d services and %d files", manyNumber, manyFiles)
	return []row{
		{Name: "static page: save → served " + name, Reference: &one, Limit: 1.2, Phases: phases(pages),
			Ours: durations("save of index.html of one of the sites, which has 2,000 files", all[1])},
		{Name: "Go service: save → served " + name, Reference: &oneGo, Limit: 1.2, Phases: phases(programs),
			Ours: durations("save of main.go of one of the services", all[3])},
	}, nil
}

// agentSize measures the agent: on disk, and in the pods of a Go service and of a
// static site of 5,000 files after several saves.
func agentSize(ctx context.Context, b *bed) ([]row, error) {
	info, err := os.Stat(b.program("bight-agent"))
	if err != nil {
		return nil, err
	}
	disk := series{What: "size of the program", Unit: "MB", Values: []float64{megabytes(info.Size())}}
	rows := []row{{Name: "agent on disk", Ours: disk, Limit: 12}}
	large, err := b.module(ctx, "agent-go", b.root, map[string]string{"main.go": largeSource(marker(0))})
	if err != nil {
		return nil, err
	}
	pages, err := b.write("agent-static", siteOf(burstFiles))
	if err != nil {
		return nil, err
	}
	for _, v := range []struct {
		name, dir, file string
		source          func(string) string
	}{
		{"a Go service of 50 MB", large, "main.go", largeSource},
		{"a static site of 5000 files", pages, "index.html", pageSource},
	} {
		memory, err := b.agentMemory(ctx, v.dir, v.file, v.source)
		if err != nil {
			return rows, err
		}
		rows = append(rows, row{Name: "agent resident, " + v.name, Ours: memory, Limit: 15})
	}
	return rows, nil
}

// agentMemory returns the resident memory of an agent after each of some saves.
func (b *bed) agentMemory(ctx context.Context, dir, file string, source func(string) string) (series, error) {
	memory := series{What: "resident memory of /bight/agent run in the pod, after each save", Unit: "MB"}
	name := filepath.Base(dir)
	s, err := b.up(ctx, dir, "bench-"+name)
	if err != nil {
		return memory, err
	}
	defer s.close()
	ask, err := s.page(name, "/")
	if err != nil {
		return memory, err
	}
	pods, err := b.pods(ctx, s.namespace)
	if err != nil {
		return memory, err
	}
	pid, err := processOfPod(string(pods[0].UID), "/bight/agent", "run")
	if err != nil {
		return memory, err
	}
	do := s.saved(file, source, ask)
	for round := range b.samples {
		if _, err := do(ctx, round); err != nil {
			return memory, err
		}
		b.rest(ctx)
		u, err := processUsage(pid)
		if err != nil {
			return memory, err
		}
		memory.Values = append(memory.Values, megabytes(u.resident))
	}
	return memory, nil
}
