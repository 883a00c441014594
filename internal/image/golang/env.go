package golang

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/tree"
)

// goEnv is what the go command says of itself in one module.
type goEnv struct {
	command string            // absolute path of the go command
	vars    map[string]string // go env
	tags    tags
}

// tags are the build tags that are set, besides GOOS and GOARCH.
type tags struct{ Build, Tool, Release []string }

// goEnvRecord is a goEnv on disk.
type goEnvRecord struct {
	Vars map[string]string `json:"vars"`
	Tags tags              `json:"tags"`
}

// decisive are the variables that have a say in what a build gives. GOFLAGS and
// the target's GOAMD64 and the like are among them.
func decisive(name string) bool {
	switch name {
	case "GOVERSION", "GOFLAGS", "GOOS", "GOARCH", "GOEXPERIMENT", "GOFIPS140", "CGO_ENABLED",
		"GOAMD64", "GOARM64", "GOARM", "GO386", "GOPPC64", "GORISCV64", "GOMIPS", "GOMIPS64", "GOWASM":
		return true
	}
	return false
}

// identity is what decides a build.
func (e *goEnv) identity() string {
	var lines []string
	for k, v := range e.vars {
		if decisive(k) {
			lines = append(lines, k+"="+v)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n" + fmt.Sprint(e.tags)
}

// flag returns the value of a flag in GOFLAGS: "true" where it has none, "" when
// it is not there.
func (e *goEnv) flag(name string) string {
	value := ""
	for _, f := range splitQuoted(e.vars["GOFLAGS"]) {
		f = "-" + strings.TrimLeft(f, "-")
		if f == name {
			value = "true"
		} else if v, ok := strings.CutPrefix(f, name+"="); ok {
			value = v
		}
	}
	return value
}

// splitQuoted splits at spaces, except in a field that is quoted as a whole.
func splitQuoted(s string) []string {
	var fields []string
	for s = strings.TrimLeft(s, " \t\r\n"); s != ""; s = strings.TrimLeft(s, " \t\r\n") {
		if q := s[0]; q == '\'' || q == '"' {
			field, rest, ok := strings.Cut(s[1:], string(q))
			if ok {
				fields, s = append(fields, field), rest
				continue
			}
		}
		end := strings.IndexAny(s, " \t\r\n")
		if end < 0 {
			end = len(s)
		}
		fields, s = append(fields, s[:end]), s[end:]
	}
	return fields
}

// ErrNoGo tells that there is no go command.
var ErrNoGo = errors.New("it is built with the go command, which is not on PATH: install Go (https://go.dev/dl) or add it to PATH")

// environ is the environment of the go command.
func (b *Builder) environ() []string {
	env := b.Env
	if env == nil {
		env = os.Environ()
	}
	return append(slices.Clip(env), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+b.arch())
}

func (b *Builder) command() (string, error) {
	name := b.Go
	if name == "" {
		name = "go"
	}
	file, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w (%w)", ErrNoGo, err)
	}
	return filepath.Abs(file)
}

// goEnv asks the go command about itself, once for as long as nothing changes
// that it answers from.
func (b *Builder) goEnv(ctx context.Context, module string) (*goEnv, error) {
	command, err := b.command()
	if err != nil {
		return nil, err
	}
	key, stable := b.envKey(command, module)
	b.mu.Lock()
	env := b.envs[key]
	b.mu.Unlock()
	if env != nil {
		return env, nil
	}
	var r goEnvRecord
	if !stable || !b.Store.Recall("goenv", key, &r) {
		if r, err = b.askGo(ctx, command, module); err != nil {
			return nil, err
		}
		if stable {
			// What could not be remembered is asked again.
			_ = b.Store.Remember("goenv", key, r, nil)
		}
	}
	env = &goEnv{command: command, vars: r.Vars, tags: r.Tags}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.envs == nil {
		b.envs = map[tree.Hash]*goEnv{}
	}
	b.envs[key] = env
	return env, nil
}

// envKey stands for what the go command answers from: itself, its environment,
// its settings file, and the module's and workspace's choice of a toolchain. It
// is not stable when the command is a script of a version manager, which may
// look anywhere.
func (b *Builder) envKey(command, module string) (key tree.Hash, stable bool) {
	h := newHash()
	real, err := filepath.EvalSymlinks(command)
	if err != nil {
		real = command
	}
	if info, err := os.Stat(real); err == nil {
		fmt.Fprintf(h, "%q %d %d\n", real, info.Size(), info.ModTime().UnixNano())
	}
	home := ""
	config := ""
	for _, kv := range b.environ() {
		name, value, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "GO") || strings.HasPrefix(name, "CGO_") || name == "PATH" || name == "HOME" || name == "XDG_CONFIG_HOME" {
			fmt.Fprintf(h, "%q\n", kv)
		}
		switch name {
		case "GOENV":
			config = value
		case "HOME":
			home = value
		}
	}
	if config == "" {
		if dir, err := os.UserConfigDir(); err == nil {
			config = filepath.Join(dir, "go", "env")
		} else {
			config = filepath.Join(home, ".config", "go", "env")
		}
	}
	files := []string{config, filepath.Join(module, "go.mod")}
	if work := findWork(module, ""); work != "" {
		files = append(files, work)
	}
	for _, file := range files {
		e, err := b.Hashes.Stat(file)
		fmt.Fprintf(h, "%q %s %v\n", file, e.Hash, err == nil)
	}
	root := filepath.Dir(filepath.Dir(real))
	_, err = os.Stat(filepath.Join(root, "pkg", "tool"))
	return h.sum(), err == nil
}

// askGo runs the go command, which costs tens of milliseconds.
func (b *Builder) askGo(ctx context.Context, command, module string) (goEnvRecord, error) {
	var r goEnvRecord
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		out, err := b.run(ctx, command, module, "env", "-json")
		if err != nil {
			return err
		}
		if err := json.Unmarshal(out, &r.Vars); err != nil {
			return fmt.Errorf("read what go env printed: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		const lists = `{{join context.BuildTags " "}}|{{join context.ToolTags " "}}|{{join context.ReleaseTags " "}}`
		out, err := b.run(ctx, command, module, "list", "-find", "-f", lists, "unsafe")
		if err != nil {
			return err
		}
		parts := strings.Split(strings.TrimSpace(string(out)), "|")
		if len(parts) != 3 {
			return fmt.Errorf("go list printed %q where lists of build tags were expected", out)
		}
		r.Tags = tags{strings.Fields(parts[0]), strings.Fields(parts[1]), strings.Fields(parts[2])}
		return nil
	})
	return r, group.Wait()
}

// run returns the standard output of a short go command.
func (b *Builder) run(ctx context.Context, command, dir string, args ...string) ([]byte, error) {
	var stdout, stderr strings.Builder
	cmd := newCommand(ctx, dir, b.environ(), command, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if stderr.Len() > 0 {
			return nil, &image.CompileError{Output: stderr.String()}
		}
		return nil, fmt.Errorf("go %s in %s: %w", args[0], dir, err)
	}
	return []byte(stdout.String()), nil
}
