package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// gitIn runs git in a repository of the benchmark's.
func gitIn(ctx context.Context, dir string, args ...string) (string, error) {
	env := []string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=Bench", "GIT_AUTHOR_EMAIL=bench@example.org", "GIT_COMMITTER_NAME=Bench", "GIT_COMMITTER_EMAIL=bench@example.org"}
	out, _, err := runIn(ctx, dir, env, append([]string{"git"}, args...)...)
	return strings.TrimSpace(out), err
}

// repository makes a git repository of a directory.
func repository(ctx context.Context, dir string) error {
	for _, args := range [][]string{{"init", "--quiet", "--initial-branch", "main", "."}, {"add", "--all"}, {"commit", "--quiet", "--message", "The app"}} {
		if _, err := gitIn(ctx, dir, args...); err != nil {
			return err
		}
	}
	return nil
}

// shipped measures bight ship of a commit that edit makes, from the command's start to
// its end, when the change is deployed and its services are ready.
func (b *bed) shipped(dir, namespace string, edit func(dir string, round int) error) action {
	return func(ctx context.Context, round int) (time.Duration, error) {
		if err := edit(dir, round); err != nil {
			return 0, err
		}
		if _, err := gitIn(ctx, dir, "commit", "--quiet", "--all", "--message", marker(round)); err != nil {
			return 0, err
		}
		_, took, err := runIn(ctx, dir, nil, b.program("bight"), "ship", "-n", namespace)
		return took, err
	}
}

// fixShop changes one line of one service of the example.
func fixShop(dir string, round int) error {
	file := filepath.Join(dir, "internal", "payment", "payment.go")
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	const where, begin = "log *slog.Logger) error {", "\n\nvar benchMarker = "
	text, _, _ := strings.Cut(string(b), begin)
	text = strings.TrimSpace(strings.Replace(text, where+" benchUse();", where, 1))
	if !strings.Contains(text, where) {
		return fmt.Errorf("%s has no %q", file, where)
	}
	text = strings.Replace(text, where, where+" benchUse();", 1)
	text += fmt.Sprintf("%s%q\n\nfunc benchUse() { _ = os.Setenv(\"BENCH_MARKER\", benchMarker) }\n", begin, marker(round))
	return os.WriteFile(file, []byte(text), 0o644)
}

func fixReadme(dir string, round int) error {
	return os.WriteFile(filepath.Join(dir, "README.md"), []byte("# Shop\n\n"+marker(round)+"\n"), 0o644)
}

// fixOf changes one line of one of the two services of shipSmall.
func fixOf(service string) func(dir string, round int) error {
	return func(dir string, round int) error {
		return os.WriteFile(filepath.Join(dir, service, "main.go"), []byte(smallSource(marker(round+1))), 0o644)
	}
}

// shipSmall measures commits of an app of two services with tests of their own.
func shipSmall(ctx context.Context, b *bed) ([]row, error) {
	const test = "package main\n\nimport \"testing\"\n\nfunc TestMarker(t *testing.T) {\n\tif marker == \"\" {\n\t\tt.Error(\"there is no marker\")\n\t}\n}\n"
	files := map[string]string{"go.mod": smallMod, "README.md": "Two services.\n", "one/main_test.go": test, "two/main_test.go": test}
	files["one/main.go"], files["two/main.go"] = smallSource(marker(0)), strings.ReplaceAll(smallSource(marker(0)), ":8080", ":8081")
	dir, err := b.write("ship-small", files)
	if err != nil {
		return nil, err
	}
	bare, err := b.write("ship-small-bare", files)
	if err != nil {
		return nil, err
	}
	return b.ship(ctx, shipping{what: "an app of two services", name: "small", dir: dir, bare: bare, service: "one", fix: fixOf("one"), wordsLimit: 1000})
}

// shipShop measures commits of the example, whose tests run the whole shop: whichever
// service changes, they run again.
func shipShop(ctx context.Context, b *bed) ([]row, error) {
	shop := os.DirFS(filepath.Join(b.root, "examples", "shop"))
	dir, bare := filepath.Join(b.work, "shop"), filepath.Join(b.work, "shop-bare")
	for _, d := range []string{dir, bare} {
		if err := os.CopyFS(d, shop); err != nil {
			return nil, err
		}
	}
	return b.ship(ctx, shipping{what: "the example shop", name: "shop", dir: dir, bare: bare, service: "payment", fix: fixShop, wordsLimit: 1000})
}

// shipping says what is shipped.
type shipping struct {
	what, name string
	dir, bare  string // the app, and a copy of it
	service    string
	fix        func(dir string, round int) error
	wordsLimit float64
}

// ship measures commits of an app, from the push until they are deployed: a fix of one
// service, against a bare go build of that service after the same edit and the start
// of a bare pod with it; and words.
func (b *bed) ship(ctx context.Context, s shipping) ([]row, error) {
	if err := repository(ctx, s.dir); err != nil {
		return nil, err
	}
	if _, _, err := runIn(ctx, b.work, nil, b.program("bight"), "install"); err != nil {
		return nil, err
	}
	removeBox, err := b.box(ctx, "bench-box")
	if err != nil {
		return nil, err
	}
	defer removeBox()
	namespace := "bench-" + s.name
	defer func() { b.remove(ctx, s.name+"-prod"); b.remove(ctx, namespace) }()
	limited, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	if _, _, err := runIn(limited, s.dir, nil, b.program("bight"), "ship", "-n", namespace); err != nil {
		return nil, err
	}
	program := filepath.Join(s.bare, s.service)
	editBare := func(_ string, round int) error { return s.fix(s.bare, round) }
	all, err := b.alternate(ctx, []string{"go build", "bare pod", "ship a fix", "ship words"},
		b.goBuild(program, editBare), b.pulledPod("bench-box", b.builtBy(program)), b.shipped(s.dir, namespace, s.fix), b.shipped(s.dir, namespace, fixReadme))
	if err != nil {
		return nil, err
	}
	reference := durations(fmt.Sprintf("go build of the service after the same edit (%s) + a bare pod of it, from created to ready (%s)", durations("", all[0]), durations("", all[1])), sums(all[0], all[1]))
	return []row{
		{Name: "bight ship: a fix of one service of " + s.what, Reference: &reference, Limit: 3,
			Ours: durations("the whole command: push, review, build, tests, preview, merge, deployment, until it is ready", all[2])},
		{Name: "bight ship: a change that touches no service of " + s.what, Limit: s.wordsLimit,
			Ours: durations("the whole command", all[3])},
	}, nil
}
