//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"time"

	"github.com/bightdev/bight/api/v1alpha1"
)

// way is one in which the requests of a release are shared: by doors, or by routes of
// Gateway API. Both do what testWay asks.
type way struct {
	url  string   // where the requests come to
	args []string // of bight release start
	// lags says that shares take a moment after they were observed, but for an undo. Its
	// load has no requests whose answers come while they are sent: not every proxy lets them.
	lags bool
	// changed, if not nil, is called at 50 %, and does what people do to routes.
	changed func(*bay)
	// unchanged checks that nothing is left of a release.
	unchanged func(*bay) error
}

// begin begins a release of the way, and waits until it has a phase.
func (w way) begin(b *bay, word, plan, phase string, more ...string) *v1alpha1.Release {
	b.Helper()
	args := append([]string{"start", tillNamed, "--env", "WHO=" + word, "--plan", b.plan(plan), "--detach"}, w.args...)
	b.order(append(args, more...)...)
	return b.reaches(phase)
}

// over waits until nothing of a release is left.
func (w way) over(b *bay) {
	b.Helper()
	b.unreleased()
	if w.unchanged != nil {
		b.eventually("everything is as it was", func() error { return w.unchanged(b) })
	}
}

// all waits until one version answers everything, and then asks again: it stays so.
func (w way) all(b *bay, version string, headers ...string) {
	b.Helper()
	b.eventually("all requests are answered by "+version, func() error {
		if by := b.sharesAt(w.url, 20, headers...); by[version] != 20 {
			return fmt.Errorf("%v", by)
		}
		return nil
	})
	w.only(b, version, headers...)
}

// only checks that one version answers everything, from now on.
func (w way) only(b *bay, version string, headers ...string) {
	b.Helper()
	if by := b.sharesAt(w.url, 60, headers...); by[version] != 60 {
		b.Errorf("%v, and not %s alone", by, version)
	}
}

// alone checks that one version answers everything: at once, or after a moment.
func (w way) alone(b *bay, version string, headers ...string) {
	b.Helper()
	if w.lags {
		w.all(b, version, headers...)
	} else {
		w.only(b, version, headers...)
	}
}

// part checks that a version answers some of 200 requests.
func (w way) part(b *bay, version string, from, to int) {
	b.Helper()
	try := func() error {
		if by := b.sharesAt(w.url, 200); by[version] < from || by[version] > to {
			return fmt.Errorf("%s has %v, and not %d to %d of 200", version, by, from, to)
		}
		return nil
	}
	if w.lags {
		b.eventually(fmt.Sprintf("%s has %d to %d of 200", version, from, to), try)
	} else if err := try(); err != nil {
		b.Error(err)
	}
}

// load begins to ask all the time.
func (w way) load(b *bay) {
	b.Helper()
	path := "/start?url=" + strings.TrimSuffix(w.url, "/")
	if w.lags {
		path += "&echo=no"
	}
	b.load(path, nil)
}

// stable is the version that answers now.
func (w way) stable(b *bay) (version string) {
	b.Helper()
	before := b.sharesAt(w.url, 10)
	if len(before) != 1 || before["nobody"] > 0 {
		b.Fatalf("%s is answered by %v", w.url, before)
	}
	for version = range before {
	}
	return version
}

// testWay gives a version its shares, by weights and by a header, and takes them from it
// again, while others ask all the time. Nothing is lost.
func testWay(b *bay, w way) {
	stable := w.stable(b)
	w.begin(b, "way", fmt.Sprintf(hold, 0), "Held")
	w.only(b, stable)
	w.load(b)
	b.Log(strings.TrimSpace(b.order("weight", tillNamed, "25")))
	w.part(b, "way", 25, 75)
	b.order("weight", tillNamed, "50")
	w.part(b, "way", 70, 130)
	if w.changed != nil {
		w.changed(b)
		w.part(b, "way", 70, 130)
	}
	b.order("route", tillNamed, "--header", "x-team=ada", "--to", "canary")
	b.order("weight", tillNamed, "0")
	w.alone(b, "way", "X-Team", "ada")
	w.alone(b, stable)
	w.only(b, stable, "X-Team", "bob")
	b.order("route", tillNamed, "--clear")
	b.order("weight", tillNamed, "100")
	w.alone(b, "way")
	began := time.Now()
	said := b.order("undo", tillNamed, "--why", "that was all")
	b.Logf("undone in %s: %s", time.Since(began).Round(time.Millisecond), strings.TrimSpace(said))
	w.only(b, stable)
	b.reaches("Undone")
	w.over(b)
	b.unharmed("weights, routes and an undo")
}

// testWayPromotes brings a version to everybody, and loses nothing. By doors
// testReleasePromoted does.
func testWayPromotes(b *bay, w way) {
	stable := w.stable(b)
	w.load(b)
	w.begin(b, stable+"-next", "steps: [{weight: 20, for: 1s}, {weight: 50}]\nkeep: 1s\n", "Promoted")
	w.all(b, stable+"-next")
	w.over(b)
	w.only(b, stable+"-next")
	if b.unharmed("a promotion"); b.Failed() {
		b.Logf("%+v", b.current().Status.Events)
	}

	// What comes next finds the name that it knows.
	w.begin(b, stable, "steps: [{weight: 50}]\nkeep: 1s\n", "Promoted")
	w.over(b)
}
