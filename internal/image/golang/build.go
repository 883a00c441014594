package golang

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/tree"
)

// compile makes the program and puts it into the store. The recipe is how to
// make it again; it must be kept only if no source changed meanwhile. It may be
// nil.
func (b *Builder) compile(ctx context.Context, a *app.App, s *app.Service, as *assembly) (tree.Entry, *recipe, error) {
	tmp, err := b.Store.Temp()
	if err != nil {
		return tree.Entry{}, nil, fmt.Errorf("build service %s: %w", s.Name, err)
	}
	defer os.RemoveAll(tmp)
	units, shape := b.shapes(s, as)
	old := b.recipe(recipeID(a, s), shape)
	if old != nil && old.Shape == shape {
		next, err := b.repeat(ctx, as, old, tmp)
		if err == nil {
			return next.Program.entry(), next, nil
		}
		if ctx.Err() != nil {
			return tree.Entry{}, nil, fmt.Errorf("build service %s: %w", s.Name, context.Cause(ctx))
		}
		b.debug(ctx, "asking the go command", "service", s.Name, "because", err)
	}
	exe, err := b.goBuild(ctx, s, as, tmp)
	if err != nil {
		return tree.Entry{}, nil, err
	}
	next, err := b.learn(as, units, shape, old, tmp, exe)
	if err != nil {
		// The next build is an ordinary one, too.
		b.debug(ctx, "nothing learnt from the go command", "service", s.Name, "because", err)
		return exe, nil, nil
	}
	return exe, next, nil
}

func recipeID(a *app.App, s *app.Service) string { return a.Dir + "\x00" + s.Name }

// What go build leaves behind in the temporary directory.
const (
	programFile = "program"
	actionsFile = "actions.json"
)

// lead lets the first build of a module go alone. Programs of one module share
// most of what they import, and go commands that run side by side would each
// compile all of it; what the first has compiled, the others find in the cache.
// The returned function must be called when the build is over.
func (b *Builder) lead(ctx context.Context, module string) (over func()) {
	b.mu.Lock()
	if b.first == nil {
		b.first = map[string]chan struct{}{}
	}
	done, later := b.first[module]
	if !later {
		done = make(chan struct{})
		b.first[module] = done
	}
	b.mu.Unlock()
	if !later {
		return func() { close(done) }
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
	return func() {}
}

// goBuild runs go build in tmp and puts the program into the store.
func (b *Builder) goBuild(ctx context.Context, s *app.Service, as *assembly, tmp string) (tree.Entry, error) {
	defer b.lead(ctx, as.module)()
	exe := filepath.Join(tmp, programFile)
	args := []string{"build", "-o", exe, "-work", "-debug-actiongraph=" + filepath.Join(tmp, actionsFile)}
	args = append(append(args, b.flags(as.env)...), s.Build.Package)
	cmd := newCommand(ctx, as.module, append(b.environ(), "GOTMPDIR="+tmp), as.env.command, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err == nil {
		return b.Store.Put(exe)
	}
	if ctx.Err() != nil {
		return tree.Entry{}, fmt.Errorf("build service %s: %w", s.Name, context.Cause(ctx))
	}
	text := withoutWork(out.String())
	if line := diskFull(text); line != "" {
		return tree.Entry{}, fmt.Errorf("build service %s: %s: make room there, empty the go command's cache (go clean -cache), or set XDG_CACHE_HOME to a directory on another disk (now %s)",
			s.Name, line, filepath.Dir(tmp))
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() && text != "" {
		return tree.Entry{}, &image.CompileError{Service: s.Name, Output: text}
	}
	return tree.Entry{}, fmt.Errorf("build service %s: go build: %w %s", s.Name, err, strings.TrimSpace(text))
}

// diskFull returns the line in which a tool says that it could not write, or "".
func diskFull(text string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, "no space left on device") || strings.Contains(line, "disk quota exceeded") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// withoutWork removes the line that -work adds to what the go command prints.
func withoutWork(out string) string {
	var kept strings.Builder
	removed := false
	for line := range strings.Lines(out) {
		if !removed && strings.HasPrefix(line, "WORK=") {
			removed = true
			continue
		}
		kept.WriteString(line)
	}
	return kept.String()
}
