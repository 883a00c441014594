package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/change/attest"
	"github.com/bightdev/bight/internal/change/client"
	"github.com/bightdev/bight/internal/change/work"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/kube"
)

// Outer is what only bight-outer can do. What links it starts in five times the time,
// so bight, which is started for every command, has none and leaves it to that program.
type Outer interface {
	// Worker makes a worker. release is called when it has ended.
	Worker(WorkerSettings) (w *work.Client, release func() error, err error)
	// Control is a controller, until ctx ends.
	Control(context.Context, ControllerSettings) error
}

// WorkerSettings are what a worker is made of.
type WorkerSettings struct {
	Hello      work.Hello
	Cluster    *kube.Cluster
	Controller *client.Client
	Registry   image.Registry
	// Cache is the directory of this user's caches, and Results of what tests have shown.
	Cache, Results string
	// Agent is the file with the agent for images.
	Agent string
	// Signer signs images; nil signs none.
	Signer *attest.Signer
	// VulnDB is a copy of Go's vulnerability database, or "".
	VulnDB string
	Log    *slog.Logger
}

// ControllerSettings are what a controller is made of.
type ControllerSettings struct {
	Version string
	// Dir has repositories, logs and results; Listen is where HTTP is served.
	Dir, Listen string
	// Metrics is where metrics are served, "" for nowhere.
	Metrics string
	// Hook is the program that git's hooks run, and its arguments.
	Hook []string
	// Prometheus is the URL of who answers guards; "" is nobody.
	Prometheus string
	Log        *slog.Logger
}

const outerName = "bight-outer"

// findOuter returns the path of bight-outer.
func findOuter() (string, error) { return findSibling(outerName, "make build") }

// becomeOuter has bight-outer do the command that this program was started with.
func (p *Program) becomeOuter() error {
	program, err := findOuter()
	if err != nil {
		return err
	}
	return p.become(program, p.args)
}

// runInstead runs a program to its end, and passes its exit code on.
func (p *Program) runInstead(ctx context.Context, program string, args []string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Stdin, p.Stdout, p.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return codedError{code: exit.ExitCode(), err: err, silent: true}
	}
	return err
}

// farewellTime is how long a worker beside this program has to say goodbye.
const farewellTime = 5 * time.Second

// hire starts a worker beside this program. It ends with this program, however that
// ends; if it does before, lost is called with the reason.
func (p *Program) hire(t *target, o workerOptions, lost func(error)) (dismiss func(), err error) {
	program, err := findOuter()
	if err != nil {
		return nil, fmt.Errorf("%w; or leave the steps to other workers with --no-worker", err)
	}
	if _, err := agentProgram(); err != nil {
		return nil, err
	}
	cmd := exec.Command(program, workerArgs(t, o)...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if t.verbose {
		cmd.Stderr = io.MultiWriter(p.Stderr, &said)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a worker: %w", err)
	}
	var tasks sync.WaitGroup
	var mu sync.Mutex
	dismissed := false
	tasks.Go(func() {
		err := cmd.Wait()
		mu.Lock()
		defer mu.Unlock()
		if !dismissed {
			why := strings.TrimPrefix(strings.TrimSpace(said.String()), "error: ")
			if why == "" && err != nil {
				why = err.Error()
			}
			lost(errors.New("the worker beside this program has ended: " + why))
		}
	})
	return func() {
		mu.Lock()
		dismissed = true
		mu.Unlock()
		_ = stdin.Close()
		late := time.AfterFunc(farewellTime, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		tasks.Wait()
	}, nil
}

// workerArgs are the arguments of a worker that is to see the same cluster.
func workerArgs(t *target, o workerOptions) []string {
	args := []string{"worker", "--beside", "--slots", fmt.Sprint(o.slots)}
	add := func(flag string, values ...string) {
		for _, v := range values {
			if v != "" {
				args = append(args, "--"+flag+"="+v)
			}
		}
	}
	add("app", o.apps...)
	add("kubeconfig", t.kubeconfig)
	add("context", t.context)
	add("allow-context", t.allow...)
	add("registry", t.registry)
	add("signing-key", o.signingKey)
	add("vuln-db", o.vulnDB)
	if t.verbose {
		args = append(args, "--verbose")
	}
	return slices.Clip(args)
}
