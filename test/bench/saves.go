package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// saved measures a save of a file of a session's app until the service serves it.
func (s *session) saved(file string, source func(marker string) string, ask asker) action {
	return func(ctx context.Context, round int) (time.Duration, error) {
		m, every := marker(round+1), probeFile
		if strings.HasSuffix(file, ".go") {
			every = probeBuild
		}
		return save(ctx, filepath.Join(s.dir, filepath.FromSlash(file)), source(m), m, every, ask)
	}
}

// saveStatic measures the save of a page, against one kubectl exec.
func saveStatic(ctx context.Context, b *bed) ([]row, error) {
	removeBox, err := b.box(ctx, "bench-box")
	if err != nil {
		return nil, err
	}
	defer removeBox()
	dir, err := b.write("static", site())
	if err != nil {
		return nil, err
	}
	s, err := b.up(ctx, dir, "bench-static")
	if err != nil {
		return nil, err
	}
	defer s.close()
	page, err := s.page("static", "/index.html")
	if err != nil {
		return nil, err
	}
	css := func(marker string) string { return "h1 { color: teal } /* " + marker + " */\n" }
	style, err := s.page("static", "/site.css")
	if err != nil {
		return nil, err
	}
	direct := s.besides("static", "8080", "/index.html")
	again := func(ctx context.Context, round int) (time.Duration, error) {
		return s.saved("index.html", pageSource, direct)(ctx, round+1_000_000)
	}
	all, err := b.alternate(ctx, []string{"kubectl exec", "page", "stylesheet", "page, past the proxy"},
		b.execTrue("bench-box"), s.saved("index.html", pageSource, page), s.saved("site.css", css, style), again)
	if err != nil {
		return nil, err
	}
	events, err := s.syncs("static", 0)
	if err != nil {
		return nil, err
	}
	exec := durations("kubectl exec POD -- true, a program of its own", all[0])
	return []row{
		{Name: "static page: save → served", Reference: &exec, Limit: 0.2, Phases: phases(events),
			Ours: durations("save of index.html until its new text is served at the session's URL", all[1])},
		{Name: "stylesheet: save → served", Reference: &exec, Limit: 0.2,
			Ours: durations("save of site.css until its new text is served at the session's URL", all[2])},
		{Name: "static page, asked past the local proxy", Reference: &exec,
			Ours: durations("the same as the first row, but asked through the API server's proxy to the Kubernetes Service", all[3])},
	}, nil
}

// saveSmall and saveLarge measure the save of a Go service, against a bare go
// build after the same edit of a copy of the same module.
func saveSmall(ctx context.Context, b *bed) ([]row, error) {
	files := func(name string) (string, error) {
		return b.write(name, map[string]string{"go.mod": smallMod, "main.go": smallSource(marker(0))})
	}
	return saveGo(ctx, b, "small", 0.9, smallSource, files)
}

func saveLarge(ctx context.Context, b *bed) ([]row, error) {
	files := func(name string) (string, error) {
		return b.module(ctx, name, b.root, map[string]string{"main.go": largeSource(marker(0))})
	}
	return saveGo(ctx, b, "large", 0.75, largeSource, files)
}

func saveGo(ctx context.Context, b *bed, name string, limit float64, source func(string) string, write func(name string) (string, error)) ([]row, error) {
	dir, err := write(name)
	if err != nil {
		return nil, err
	}
	bare, err := write(name + "-bare")
	if err != nil {
		return nil, err
	}
	s, err := b.up(ctx, dir, "bench-"+name)
	if err != nil {
		return nil, err
	}
	defer s.close()
	page, err := s.page(name, "/")
	if err != nil {
		return nil, err
	}
	before, err := s.syncs(name, 0)
	if err != nil {
		return nil, err
	}
	all, err := b.alternate(ctx, []string{"go build", "save"}, b.goBuild(bare, edit(source)), s.saved("main.go", source, page))
	if err != nil {
		return nil, err
	}
	events, err := s.syncs(name, len(before)+1) // the first round warms up
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(b.builtBy(bare))
	if err != nil {
		return nil, err
	}
	size := fmt.Sprintf("%d MB", (info.Size()+500_000)/1_000_000)
	reference := durations("go build of the same module after the same edit; the program has "+size, all[0])
	return []row{{
		Name: "Go service of " + size + ": save → served", Reference: &reference, Limit: limit, Phases: phases(events),
		Ours: durations("save of main.go until the new process answers at the session's URL", all[1]),
	}}, nil
}
