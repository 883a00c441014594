// Command bight-agent runs inside pods: it keeps a service's process and files
// as a session wants them, and serves static sites. See package agent. In an ephemeral
// container it leads into a pod of others: see package gate.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/bightdev/bight/internal/agent"
	"github.com/bightdev/bight/internal/agent/static"
	"github.com/bightdev/bight/internal/probe"
)

// version is the release, set by the linker.
var version = "dev"

const usage = `usage:
  agent run [flags] -- COMMAND [ARGS...]    run a service under live update
  agent static [flags]                      serve a directory over HTTP
  agent gate [flags]                        let one laptop into the pod of another program
  agent confine [flags] -- COMMAND [ARGS]   run a program that nobody vouches for, within limits
  agent version
"agent run -h" lists the flags.
`

// Exit codes.
const (
	failed     = 1
	wrongUsage = 2
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return wrongUsage
	}
	switch args[0] {
	case "run":
		return runAgent(args[1:], stderr)
	case "static":
		return runStatic(args[1:], stderr)
	case "gate":
		return runGate(args[1:], stderr)
	case "confine":
		return runConfine(args[1:], stderr)
	case "version":
		fmt.Fprintln(stdout, version)
		return 0
	}
	fmt.Fprintf(stderr, "agent: unknown command %q\n%s", args[0], usage)
	return wrongUsage
}

// parse reads flags; the code is that to exit with when ok is false.
func parse(f *flag.FlagSet, args []string, stderr io.Writer) (code int, ok bool) {
	f.SetOutput(stderr)
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0, false
	case err != nil:
		return wrongUsage, false
	}
	return 0, true
}

func runAgent(args []string, stderr io.Writer) int {
	f := flag.NewFlagSet("agent run", flag.ContinueOnError)
	a := &agent.Agent{Version: version}
	f.StringVar(&a.Root, "root", "/srv/app", "`directory` of the image's files")
	f.StringVar(&a.Live, "live", agent.DefaultLive, "`directory` for live files, has to be writable")
	f.StringVar(&a.Name, "name", "", "`name` of the service")
	f.BoolVar(&a.RestartProcess, "restart", true, "start the process anew when a session asks for it")
	f.DurationVar(&a.Grace, "grace", 2*time.Second, "between SIGTERM and SIGKILL at a restart")
	listen := f.String("listen", "", "`address` for sessions, on loopback")
	tokenFile := f.String("token-file", "", "`file` with the token that sessions must have; else $"+agent.TokenEnv)
	ready := f.String("ready", "", "how to see that the process can serve: tcp:PORT, http:PORT/PATH or grpc:PORT")
	f.Func("door", "port in front of one of the process's: `LISTEN=PORT/PROTOCOL`, may be repeated", func(text string) error {
		door, err := agent.ParseDoor(text)
		a.Doors = append(a.Doors, door)
		return err
	})
	readyAt := f.Int("ready-at", 0, "`port` at which kubelet asks whether the process can serve")
	debugging := f.Bool("debug", false, "log more")
	if code, ok := parse(f, args, stderr); !ok {
		return code
	}
	a.Command = f.Args()
	level := slog.LevelWarn
	if *debugging {
		level = slog.LevelDebug
	}
	a.Log = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})).With("from", "bight agent")
	ln, err := prepare(a, *listen, *tokenFile, *ready, *readyAt)
	if err != nil {
		fmt.Fprintln(stderr, "agent run:", err)
		return wrongUsage
	}
	code, err := a.Run(context.Background(), ln)
	if err != nil {
		fmt.Fprintln(stderr, "agent run:", err)
	}
	return code
}

// prepare reads what the flags name and opens the ports for sessions and kubelet.
func prepare(a *agent.Agent, listen, tokenFile, ready string, readyAt int) (net.Listener, error) {
	if len(a.Command) == 0 {
		return nil, errors.New("no command: name it after --")
	}
	a.Token = os.Getenv(agent.TokenEnv)
	if tokenFile != "" {
		b, err := os.ReadFile(tokenFile)
		if err != nil {
			return nil, fmt.Errorf("read the token: %w", err)
		}
		a.Token = strings.TrimSpace(string(b))
	}
	if a.Token == "" {
		return nil, fmt.Errorf("no token: set $%s or --token-file", agent.TokenEnv)
	}
	if ready != "" {
		var err error
		if a.Probe, err = probe.Parse(ready); err != nil {
			return nil, err
		}
	}
	if readyAt != 0 {
		if a.Probe == nil {
			return nil, errors.New("--ready-at: say how to see that the process can serve with --ready")
		}
		var err error
		if a.Readiness, err = net.Listen("tcp", ":"+strconv.Itoa(readyAt)); err != nil {
			return nil, fmt.Errorf("--ready-at: %w", err)
		}
	}
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, fmt.Errorf("--listen %q: want HOST:PORT", listen)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("--listen %q: has to be a loopback address such as 127.0.0.1, since it is for sessions only", listen)
	}
	return net.Listen("tcp", listen)
}

func runStatic(args []string, stderr io.Writer) int {
	f := flag.NewFlagSet("agent static", flag.ContinueOnError)
	site := &static.Site{}
	root := f.String("root", ".", "`directory` to serve")
	listen := f.String("listen", ":8080", "`address` to listen on")
	f.BoolVar(&site.Fallback, "spa", false, "serve /index.html for paths that have no file")
	f.BoolVar(&site.List, "list", false, "list directories that have no index.html")
	f.StringVar(&site.CacheControl, "cache-control", "", "sent with each file (default \"no-cache\")")
	if code, ok := parse(f, args, stderr); !ok {
		return code
	}
	// Under live update the newest files are elsewhere as soon as there are any.
	site.Roots = slices.DeleteFunc([]string{os.Getenv(agent.AppEnv), *root}, func(s string) bool { return s == "" })
	debug.SetMemoryLimit(12 << 20)
	debug.SetGCPercent(50)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := serve(ctx, *listen, site); err != nil {
		fmt.Fprintln(stderr, "agent static:", err)
		return failed
	}
	return 0
}

// serve serves until ctx ends and then lets requests that have begun come to
// their end.
func serve(ctx context.Context, listen string, h http.Handler) error {
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err = srv.Shutdown(sctx)
	<-done
	return err
}
