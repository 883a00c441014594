package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
)

// wire is the wire service, deployed for a benchmark.
type wire struct {
	dir       string // of its source
	namespace string
	pods      []core.Pod
	remove    func()
}

// wireName is the name of the service and its app.
const wireName = "wire"

func wireConfig(replicas int) string {
	return fmt.Sprintf(`name: wire
services:
  wire:
    replicas: %d
    ports:
      - {name: http, number: %d}
      - {name: echo, number: %d, protocol: tcp}
      - {name: swallow, number: %d, protocol: tcp}
      - {name: send, number: %d, protocol: tcp}
`, replicas, wireHTTP, wireEcho, wireSwallow, wireSend)
}

// wire deploys the wire service with bight up.
func (b *bed) wire(ctx context.Context, namespace string, replicas int) (_ *wire, err error) {
	source, err := os.ReadFile(filepath.Join(b.root, "test", "bench", "wire", "main.go"))
	if err != nil {
		return nil, err
	}
	w := &wire{namespace: namespace, remove: func() { b.remove(ctx, namespace) }}
	w.dir, err = b.write(namespace, map[string]string{
		"go.mod": "module example.com/wire\n\ngo 1.26\n", "main.go": string(source), "bight.yaml": wireConfig(replicas),
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	defer func() {
		if err != nil {
			w.remove()
		}
	}()
	if _, _, err := runIn(ctx, w.dir, nil, b.program("bight"), "up", "--once", "-n", namespace); err != nil {
		return nil, err
	}
	// The first ready pod is enough for bight up.
	err = poll(ctx, 50*time.Millisecond, func() error {
		if w.pods, err = b.pods(ctx, namespace); err != nil {
			return err
		}
		ready := 0
		for i := range w.pods {
			if isReady(&w.pods[i]) {
				ready++
			}
		}
		if ready != replicas || len(w.pods) != replicas {
			return fmt.Errorf("%d of %d pods are ready", ready, len(w.pods))
		}
		return nil
	})
	return w, err
}

// trial is an order that is carried out in each round, and what came of it.
type trial struct {
	name  string
	by    carrier
	order order
	// before and after prepare for it and clean up; nil is nothing to do.
	before, after func(ctx context.Context) error
	outcomes      []outcome
}

// action measures a transfer's time, or else the median request's.
func (t *trial) action(ctx context.Context, round int) (time.Duration, error) {
	for _, step := range []func(context.Context) error{t.before, func(ctx context.Context) error {
		out, err := t.by.do(ctx, t.order)
		t.outcomes = append(t.outcomes, out)
		return err
	}, t.after} {
		if step == nil {
			continue
		}
		if err := step(ctx); err != nil {
			return 0, err
		}
	}
	last := t.outcomes[len(t.outcomes)-1]
	if round == 0 {
		t.outcomes = nil
	}
	if last.Took > 0 {
		return last.Took, nil
	}
	return quantile(last.Each, 0.5), nil
}

// try carries out trials in turn.
func (b *bed) try(ctx context.Context, trials ...*trial) error {
	var names []string
	var actions []action
	for _, t := range trials {
		names, actions = append(names, t.name), append(actions, t.action)
	}
	_, err := b.alternate(ctx, names, actions...)
	return err
}

// took returns how long the transfer took, in each round.
func (t *trial) took() []time.Duration {
	var all []time.Duration
	for _, o := range t.outcomes {
		all = append(all, o.Took)
	}
	return all
}

// each returns a quantile of the requests, of each round.
func (t *trial) each(q float64) []time.Duration {
	var all []time.Duration
	for _, o := range t.outcomes {
		all = append(all, quantile(o.Each, q))
	}
	return all
}

// transfers describes the transfers of a trial, with their rate.
func (t *trial) transfers(what string) series {
	s := durations(what, t.took())
	if ms := s.median(); ms > 0 {
		s.What += fmt.Sprintf(", %.0f MB/s", megabytes(t.order.Bytes)/ms*1000)
	}
	return s
}

// requests describes the requests of a trial: the median of each round.
func (t *trial) requests(what string) series {
	s := durations(what, t.each(0.5))
	s.What += fmt.Sprintf(", medians of each round; 99 %% take at most %s ms", number(durations("", t.each(0.99)).median()))
	return s
}

// size says how much a transfer is.
func size(bytes int64) string {
	if bytes >= 1<<20 {
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return strings.TrimSpace(fmt.Sprintf("%d KiB", bytes>>10))
}
