//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/bightdev/bight/api/v1alpha1"
)

// TestStreamsOutlastARelease has streams read while the version that answers them is promoted:
// one through the door of a pod of before, which ends, and one of a pod of the version itself,
// whose door closes, and is opened again for the next release. Neither is cut.
func TestStreamsOutlastARelease(t *testing.T) {
	b := newReleaseBay(t)
	b.patchTill(fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{%q:null}}}}}`, v1alpha1.DoorsAnnotation)) // doors close
	if out, err := b.kubectl("rollout", "status", "deployment/"+tillNamed, "-n", b.namespace, "--timeout", "60s"); err != nil {
		b.Fatal(out, err)
	}
	b.unreleased()
	b.release("flow", "steps: [{weight: 50, hold: true}]\nkeep: 2s\n", "Held")
	r := b.current()
	read := map[string]chan error{}
	read["of the version"] = b.reads("flow", r.Status.Canary.Hash, 4000) // 40 s
	read["of before"] = b.reads("flow", r.Status.Stable.Hash, 1500)
	b.order("promote", tillNamed)
	b.unreleased()
	b.Logf("the release is over")
	<-time.After(7 * time.Second) // doors stay open for 5 s in case that they are wanted again
	b.release("ebb", "steps: [{weight: 50, hold: true}]\n", "Held")
	for what, over := range read {
		select {
		case err := <-over:
			if err != nil {
				b.Errorf("who reads through a pod %s: %v", what, err)
			}
		case <-time.After(patience):
			b.Errorf("who reads through a pod %s waits for the end", what)
		}
	}
	b.order("undo", tillNamed)
	b.reaches("Undone")
	b.unreleased()
}

// reads has a long stream of a version read through the door of a pod, and returns what is told
// when it is over.
func (b *bay) reads(version, hash string, lines int) chan error {
	b.Helper()
	c := b.client(false, true)
	c.Timeout = 0
	var answer *http.Response
	b.eventually("the version answers through a pod of "+hash, func() error {
		for _, p := range b.tillPods() {
			if p.Labels["pod-template-hash"] != hash {
				continue
			}
			a, err := c.Get(fmt.Sprintf("http://%s:8080/stream?n=%d", p.Status.PodIP, lines))
			if err != nil {
				return err
			}
			if who := a.Header.Get("X-Who"); who != version {
				a.Body.Close()
				return fmt.Errorf("it is %q", who)
			}
			answer = a
			return nil
		}
		return fmt.Errorf("there is no such pod")
	})
	over := make(chan error, 1)
	began := time.Now()
	go func() {
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if n := strings.Count(string(text), "\n"); err == nil && n < lines {
			err = fmt.Errorf("it has only %d lines", n)
		}
		if err != nil {
			err = fmt.Errorf("after %s: %w", time.Since(began).Round(time.Millisecond), err)
		}
		over <- err
	}()
	b.Cleanup(func() { answer.Body.Close() })
	return over
}
