package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/bightdev/bight/internal/kube"
)

// bed is what measurements need: programs, a cluster and a scratch directory.
type bed struct {
	options
	work     string // scratch directory
	client   kubernetes.Interface
	registry *kube.Registry
	kubectl  string // program
	boxImage string // reference of the image with the box
	log      io.Writer
}

// patience is how long anything may take that is measured.
const patience = 90 * time.Second

// openBed builds the references and finds the cluster. close removes what it made.
func openBed(ctx context.Context, o options, log io.Writer) (_ *bed, err error) {
	b := &bed{options: o, log: log}
	for _, dir := range []*string{&b.programs, &b.root} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"bight", "bight-outer", "bight-agent"} {
		if _, err := os.Stat(b.program(name)); err != nil {
			return nil, fmt.Errorf("%w: make build builds it; -bin names its directory", err)
		}
	}
	cluster, err := kube.Load(kube.Options{})
	if err != nil {
		return nil, err
	}
	if b.client, err = cluster.Typed(); err != nil {
		return nil, err
	}
	if b.registry, err = cluster.LocalRegistry(ctx); err != nil {
		return nil, err
	}
	if b.registry == nil {
		return nil, fmt.Errorf("context %s announces no registry: scripts/bench makes a cluster that does", cluster.Context)
	}
	if b.work, err = os.MkdirTemp("", "bight-bench-"); err != nil {
		return nil, err
	}
	if err := b.buildReferences(ctx); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bed) close() {
	if b.keep {
		b.say("what was measured is in %s", b.work)
		return
	}
	if err := os.RemoveAll(b.work); err != nil {
		b.say("remove the scratch directory: %v", err)
	}
}

func (b *bed) say(format string, args ...any) { fmt.Fprintf(b.log, format+"\n", args...) }

// detail says one measurement, when that was asked for.
func (b *bed) detail(what string, took time.Duration) {
	if b.verbose {
		b.say("  %s: %.1f ms", what, float64(took)/float64(time.Millisecond))
	}
}

func (b *bed) program(name string) string { return filepath.Join(b.programs, name) }

// rest lets what the last measurement left behind end.
func (b *bed) rest(ctx context.Context) {
	select {
	case <-time.After(b.pause):
	case <-ctx.Done():
	}
}

// action is something to measure. Round 0 is to warm up; what it makes must
// differ from round to round.
type action func(ctx context.Context, round int) (time.Duration, error)

// alternate measures several actions in turn, after one round that does not count.
func (b *bed) alternate(ctx context.Context, names []string, actions ...action) ([][]time.Duration, error) {
	all := make([][]time.Duration, len(actions))
	for round := range b.samples + 1 {
		for i, do := range actions {
			b.rest(ctx)
			limited, cancel := context.WithTimeout(ctx, patience)
			took, err := do(limited, round)
			cancel()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", names[i], err)
			}
			b.detail(names[i], took)
			if round > 0 {
				all[i] = append(all[i], took)
			}
		}
	}
	return all, nil
}

// runIn runs a program to its end and returns what it printed and how long it
// took.
func runIn(ctx context.Context, dir string, env []string, args ...string) (string, time.Duration, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), took, err
}

// write makes an app's directory with the files given, by path.
func (b *bed) write(name string, files map[string]string) (string, error) {
	dir := filepath.Join(b.work, name)
	for path, content := range files {
		file := filepath.Join(dir, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// environment makes a namespace and returns what removes it.
func (b *bed) environment(ctx context.Context, name string) (remove func(), err error) {
	namespace := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: name}}
	if _, err := b.client.CoreV1().Namespaces().Create(ctx, namespace, meta.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, err
	}
	return func() { b.remove(ctx, name) }, nil
}

// remove deletes a namespace and waits until it is gone: what the cluster does to
// delete it must not fall into the next measurement.
func (b *bed) remove(ctx context.Context, namespace string) {
	// What was made is removed after an interruption, too.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if err := b.delete(ctx, namespace); err != nil {
		b.say("remove namespace %s: %v", namespace, err)
	}
}

func (b *bed) delete(ctx context.Context, namespace string) error {
	now := int64(0)
	options := meta.DeleteOptions{GracePeriodSeconds: &now}
	pods := b.client.CoreV1().Pods(namespace)
	namespaces := b.client.CoreV1().Namespaces()
	if err := namespaces.Delete(ctx, namespace, options); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if err := pods.DeleteCollection(ctx, options, meta.ListOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return poll(ctx, 50*time.Millisecond, func() error {
		_, err := namespaces.Get(ctx, namespace, meta.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is still there"), err)
	})
}

// poll calls f until it returns nil.
func poll(ctx context.Context, every time.Duration, f func() error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last error
	for {
		err := f()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // else it was only cut short
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		}
	}
}
