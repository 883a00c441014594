package cli

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bightdev/bight/internal/bridge/jail"
)

func TestMain(m *testing.M) {
	jail.Main(os.Args) // as in cmd/bight
	run := func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		p := Program{Version: "v1.2.3", Stdout: os.Stdout, Stderr: os.Stderr, Stdin: os.Stdin}
		os.Exit(p.Run(ctx, os.Args[1:]))
	}
	testscript.Main(m, map[string]func(){"bight": run, "kubectl-bight": run})
}

// TestScripts tells what a user sees of everything that needs no cluster.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			cache, err := goCache()
			if err != nil {
				return err
			}
			env.Setenv("GOCACHE", cache)
			env.Setenv("HOME", env.WorkDir+"/.home")
			env.Setenv("XDG_CACHE_HOME", env.WorkDir+"/.home/cache")
			env.Setenv("XDG_CONFIG_HOME", env.WorkDir+"/.home/config")
			env.Setenv("KUBECONFIG", env.WorkDir+"/.home/kubeconfig")
			env.Setenv("BIGHT_USER", "ada")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// goCache is where the go command keeps what it has compiled: a script with a home of
// its own would have it compile the standard library.
func goCache() (string, error) {
	if dir := os.Getenv("GOCACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "go-build"), err
}

// exits runs a program and checks its exit code: exits 2 bight plan.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if exit, ok := err.(interface{ ExitCode() int }); ok {
		got = strconv.Itoa(exit.ExitCode())
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != args[0] {
		ts.Fatalf("%v exits with %s, want %s", args[1:], got, args[0])
	}
}
