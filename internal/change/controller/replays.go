package controller

import (
	"context"
	"fmt"
	"net"
	"path"
	"strconv"
	"strings"

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
		passed, err := askAgain(ctx, b, of, namespace)
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
func askAgain(ctx context.Context, b *evidence.Bundle, of *app.App, namespace string) (n int, err error) {
	s := of.Service(b.Deployment)
	if s == nil {
		s = of.Service(b.Service)
	}
	if s == nil {
		return 0, fmt.Errorf("the evidence is about service %s, which the app does not have any more: remove the file", b.Deployment)
	}
	p := &replay.Player{All: true, Errors: true, Dial: func(ctx context.Context, port int) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(s.Name+"."+namespace+".svc", strconv.Itoa(port)))
	}}
	all := p.Play(ctx, replay.Of(b), nil)
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

// withReplays adds to what a preview has shown.
func withReplays(message string, n int) string {
	if n == 0 {
		return message
	}
	return message + "; " + term.Count(n, "request") + " that convicted earlier releases pass"
}
