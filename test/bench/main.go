// Command bench measures what Bight promises about speed, each promise against a
// reference in the same run: the two are done in turn, so that both meet the same
// machine in the same state, and what is compared are medians.
//
// The main types are [bed], which has what every measurement needs (programs, a
// cluster, a scratch directory), and [row], one line of the table. It runs one
// thing at a time; the only goroutines are those that wait for a program's end and
// those that a [line] needs to do several things at once, which is what it measures.
// docs/benchmarks.md says what each row compares and why that is fair.
//
//	go run ./test/bench [-n 10] [-only static,burst] [-o json]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"time"
)

// benchmark measures one or more rows of the table.
type benchmark struct {
	name string
	run  func(ctx context.Context, b *bed) ([]row, error)
}

func benchmarks() []benchmark {
	return []benchmark{
		{"static", saveStatic},
		{"go-small", saveSmall},
		{"go-large", saveLarge},
		{"first", firstUp},
		{"unchanged", unchangedUp},
		{"burst", burst},
		{"idle", idle},
		{"many", manyServices},
		{"agent", agentSize},
		{"run", runNothing},
		{"engage", engage},
		{"bridge", bridgeTraffic},
		{"delay", delay},
		{"laptop", laptop},
		{"ship", shipSmall},
		{"ship-shop", shipShop},
		{"steps", tenSteps},
		{"apps", idleApps},
		{"release", releases},
		{"releases", idleReleases},
		{"healthy", healthy},
	}
}

// options are what the command line says.
type options struct {
	programs, root, output, only, merge string
	samples                             int
	pause, window                       time.Duration
	verbose, keep                       bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) == 3 && os.Args[1] == farWord {
		if err := obey(ctx, os.Stdin, os.Stdout, directLine(os.Args[2])); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.programs, "bin", "bin", "directory of bight, bight-agent and bight-kube")
	flag.StringVar(&o.root, "root", ".", "the repository")
	flag.IntVar(&o.samples, "n", 10, "how often each thing is measured")
	flag.DurationVar(&o.pause, "pause", time.Second, "pause between two measurements")
	flag.DurationVar(&o.window, "window", 30*time.Second, "how long an idle session is watched")
	flag.StringVar(&o.only, "only", "", "comma-separated rows to measure: "+strings.Join(names(), ", "))
	flag.StringVar(&o.merge, "merge", "", "file with rows that were measured elsewhere, as -o json prints them")
	flag.StringVar(&o.output, "o", "table", "table, markdown or json")
	flag.BoolVar(&o.verbose, "v", false, "say each measurement on stderr")
	flag.BoolVar(&o.keep, "keep", false, "keep the scratch directory, which has the sessions' events and output, and let those be detailed")
	flag.Parse()
	if err := run(ctx, o, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func names() []string {
	var all []string
	for _, b := range benchmarks() {
		all = append(all, b.name)
	}
	return all
}

// run measures the rows that were asked for and prints them. A row that cannot be
// measured keeps the others from nothing.
func run(ctx context.Context, o options, out, errs io.Writer) error {
	chosen, err := choose(o.only)
	if err != nil {
		return err
	}
	write, err := writerOf(o.output)
	if err != nil {
		return err
	}
	report := report{Machine: machine{Processors: runtime.NumCPU(), System: systemName(), Before: loadAverage()}, Samples: o.samples}
	if o.merge != "" {
		if report.Rows, err = readRows(o.merge); err != nil {
			return err
		}
	}
	b, err := openBed(ctx, o, errs)
	if err != nil {
		return err
	}
	defer b.close()
	var failures []error
	for _, bm := range chosen {
		began, load := time.Now(), loadAverage()
		b.say("%s: measuring", bm.name)
		rows, err := bm.run(ctx, b)
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", bm.name, err))
			b.say("%s: %v", bm.name, err)
		}
		for i := range rows {
			rows[i].Bench, rows[i].Load = bm.name, [2]float64{load, loadAverage()}
		}
		report.Rows = append(report.Rows, rows...)
		b.say("%s: measured in %s", bm.name, time.Since(began).Round(time.Second))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	report.Machine.After = loadAverage()
	return errors.Join(append(failures, write(out, &report))...)
}

// choose returns the benchmarks that a comma-separated list names, or all.
func choose(only string) ([]benchmark, error) {
	all := benchmarks()
	if only == "" {
		return all, nil
	}
	var chosen []benchmark
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(all, func(b benchmark) bool { return b.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-only: there is no row %q; there are %s", name, strings.Join(names(), ", "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}
