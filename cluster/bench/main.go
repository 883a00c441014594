// Command bench measures how long a cluster takes until its node is ready, beside
// how long kube-apiserver alone takes until it is, turn by turn on the same
// machine. It needs root and the programs that a cluster needs:
//
//	go run ./bench -bin ../bin
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"time"
)

// target is how many times kube-apiserver's time a start may take.
const target = 2.0

func main() {
	bin := flag.String("bin", "../bin", "directory that has bight-kube")
	runs := flag.Int("n", 10, "runs of each")
	asJSON := flag.Bool("json", false, "one JSON object on standard output")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r, err := measure(ctx, filepath.Join(*bin, "bight-kube"), *runs, os.Stderr)
	if err == nil {
		err = r.write(os.Stdout, *asJSON)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// result is what was measured, in milliseconds.
type result struct {
	Runs      int     `json:"runs"`
	NodeReady []int64 `json:"nodeReady"` // from the command to its end
	APIReady  []int64 `json:"apiReady"`  // kube-apiserver alone, from its start to /readyz
	Ratio     float64 `json:"ratio"`     // of the medians
	Target    float64 `json:"target"`
}

func measure(ctx context.Context, program string, runs int, progress io.Writer) (result, error) {
	r := result{Runs: runs, Target: target}
	if runs < 1 {
		return r, errors.New("-n: use 1 or more")
	}
	program, err := filepath.Abs(program)
	if err != nil {
		return r, err
	}
	for i := range runs {
		node, err := nodeReady(ctx, program)
		if err != nil {
			return r, err
		}
		api, err := apiReady(ctx, program)
		if err != nil {
			return r, err
		}
		fmt.Fprintf(progress, "run %d of %d: node ready after %d ms, kube-apiserver alone after %d ms\n", i+1, runs, node.Milliseconds(), api.Milliseconds())
		r.NodeReady, r.APIReady = append(r.NodeReady, node.Milliseconds()), append(r.APIReady, api.Milliseconds())
	}
	r.Ratio = float64(median(r.NodeReady)) / float64(median(r.APIReady))
	return r, nil
}

// median returns the middle value, of an even number the lower of the two.
func median(values []int64) int64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)-1)/2]
}

func (r result) write(w io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	_, err := fmt.Fprintf(w, "cluster start to node ready %d ms, kube-apiserver alone to ready %d ms: %.2f times (target %.2f), medians of %d runs\n",
		median(r.NodeReady), median(r.APIReady), r.Ratio, r.Target, r.Runs)
	return err
}

// nodeReady starts a new cluster and removes it again.
func nodeReady(ctx context.Context, program string) (time.Duration, error) {
	dir, err := os.MkdirTemp("", "bight-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	run := func(command string) error {
		cmd := exec.CommandContext(ctx, program, command, "--name", "bench", "--kubeconfig", filepath.Join(dir, "kubeconfig"))
		cmd.Env = append(os.Environ(), "BIGHT_STATE_DIR="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s %s: %w\n%s", program, command, err, out)
		}
		return nil
	}
	began := time.Now()
	err = run("start")
	took := time.Since(began)
	ctx = context.WithoutCancel(ctx) // what was started is removed
	return took, errors.Join(err, run("delete"))
}
