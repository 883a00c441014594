package controller

import (
	"context"
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change/repo"
	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/replay"
	"github.com/bightdev/bight/internal/ui/term"
)

const (
	// maxReplays is how many files with evidence a preview is asked by, and maxReplay how
	// large each may be.
	maxReplays, maxReplay = 100, 8 << 20
)

// replays asks a preview what convicted earlier releases, as far as the commit has kept
// that: see [replay.TestDir]. It returns how many requests were answered without an error,
// or what is wrong.
func (c *Controller) replays(ctx context.Context, a *v1alpha1.App, commit string, of *app.App, namespace string) (n int, err error) {
	r, err := c.store.Open(a.Namespace, a.Name)
	if err != nil {
		return 0, err
	}
	files, err := r.Tree(ctx, commit)
	if err != nil {
		return 0, err
	}
	asked := 0
	for _, f := range files {
		if !isReplay(f) {
			continue
		}
		if asked == 0 { // through its Service, which leads to pods that kubelet has found ready
			if err := c.envs.served(ctx, of, namespace); err != nil {
				return 0, err
			}
		}
		if asked++; asked > maxReplays {
			return n, fmt.Errorf("there are more than %d files in %s: remove the oldest", maxReplays, replay.TestDir)
		}
		text, err := r.ReadFile(ctx, commit, f.Path, maxReplay)
		if err != nil {
			return n, err
		}
		b, err := evidence.Read(text)
		if err != nil {
			return n, fmt.Errorf("%s: %w", f.Path, err)
		}
		passed, err := c.askAgain(ctx, b, of, namespace)
		if err != nil {
			return n, fmt.Errorf("%w (%s)", err, f.Path)
		}
		n += passed
	}
	return n, nil
}

// isReplay says whether a file has evidence.
func isReplay(f repo.Entry) bool {
	dir := path.Dir(f.Path)
	return path.Ext(f.Path) == ".json" && (dir == replay.TestDir || strings.HasSuffix(dir, "/"+replay.TestDir)) && strings.HasPrefix(f.Mode, "100")
}

// askAgain asks a service of a preview what one release was convicted by. The preview's data
// are not those of stable, so only errors fail.
func (c *Controller) askAgain(ctx context.Context, b *evidence.Bundle, of *app.App, namespace string) (n int, err error) {
	s := of.Service(b.Deployment)
	if s == nil {
		s = of.Service(b.Service)
	}
	if s == nil {
		return 0, fmt.Errorf("the evidence is about service %s, which the app does not have any more: remove the file", b.Deployment)
	}
	at, err := c.envs.podOf(ctx, s.Name, namespace)
	if err != nil {
		return 0, err
	}
	p := &replay.Player{All: true, Errors: true, Dial: func(ctx context.Context, port int) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(at, strconv.Itoa(port)))
	}}
	all := p.Play(ctx, replay.Of(b), nil)
	if n := replay.Count(all); n[replay.Skipped] == len(all) && len(all) > 0 {
		return 0, fmt.Errorf("%s: none of the %d requests of release %s tells anything here: %s; remove the file", s.Name, len(all), b.Release, all[0].Why)
	}
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	for _, r := range all {
		if r.State == replay.Failed {
			return 0, fmt.Errorf("%s: %s: %s; such requests convicted release %s", s.Name, r.Name, r.Why, b.Release)
		}
	}
	return replay.Count(all)[replay.Passed], nil
}

// podOf is the address of a pod that a Service leads to. The Service itself may lead to one
// that is about to end, for as long as kube-proxy has not heard of that.
func (e *environments) podOf(ctx context.Context, service, namespace string) (string, error) {
	s, err := e.typed.CoreV1().Services(namespace).Get(ctx, service, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	pods, err := e.typed.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.FormatLabels(s.Spec.Selector)})
	if err != nil {
		return "", err
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		ready := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
		if ready && p.DeletionTimestamp == nil && p.Status.PodIP != "" {
			return p.Status.PodIP, nil
		}
	}
	return "", fmt.Errorf("service %s has no pod that is ready in %s", service, namespace)
}

// withReplays adds to what a preview has shown.
func withReplays(message string, n int) string {
	if n == 0 {
		return message
	}
	return message + "; " + term.Count(n, "request") + " that convicted earlier releases pass"
}
