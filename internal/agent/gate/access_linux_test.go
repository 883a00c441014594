package gate

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/reach"
	"github.com/bightdev/bight/internal/steer"
	"github.com/bightdev/bight/internal/stream"
)

func wantRefused(t *testing.T, err error, want string) {
	t.Helper()
	if refused, ok := errors.AsType[*steer.RefusedError](err); !ok || !strings.Contains(refused.Why, want) {
		t.Errorf("got %v, want refused: %s", err, want)
	}
}

func wantNoToken(t *testing.T, err error, want string) {
	t.Helper()
	refused, ok := errors.AsType[*stream.RefusedError](err)
	if !ok || refused.Refusal != stream.RefusedToken || refused.Text != "the agent in the pod refused the connection: "+want {
		t.Errorf("got %v, want the token refused: %s", err, want)
	}
}

func TestOnlyTheGrantedRuleIsJoined(t *testing.T) {
	n := newNetwork(t)
	alone := grant("cleo")
	alone.Rule = nil
	n.gate(t, annas(), alone)
	anna := n.laptop(t, "anna")
	for name, tt := range map[string]struct {
		change func(*steer.Rule)
		want   string
	}{
		"id":      {func(r *steer.Rule) { r.ID = "ben-1" }, `the rule has the id "ben-1", and the token is that of intercept anna-1`},
		"owner":   {func(r *steer.Rule) { r.Owner = "ben" }, `the rule is said to be of "ben", and intercept anna-1 was made by anna: nobody can act for somebody else`},
		"port":    {func(r *steer.Rule) { r.Port = 9000 }, "its port is 9000 instead of 8080"},
		"all":     {func(r *steer.Rule) { r.Match.Headers = nil }, `its match is none instead of {"headers":[{"name":"x-user","value":"anna"}]}`},
		"other":   {func(r *steer.Rule) { r.Match.Headers = []steer.HeaderMatch{{Name: "x-user", Value: "ben"}} }, "its match is "},
		"mode":    {func(r *steer.Rule) { r.Mode = steer.Mirror }, `its mode is "mirror" instead of "intercept"`},
		"strict":  {func(r *steer.Rule) { r.Strict = true }, "its strict is true instead of none"},
		"service": {func(r *steer.Rule) { r.Service = "pay" }, `its service is "pay" instead of "cart"`},
	} {
		r := rule("anna")
		tt.change(&r)
		_, err := anna.Join(t.Context(), anna.sess, r, to("127.0.0.1:1"))
		t.Log(name, err)
		wantRefused(t, err, tt.want)
	}
	cleo := n.laptop(t, "cleo")
	_, err := cleo.Join(t.Context(), cleo.sess, rule("cleo"), to("127.0.0.1:1"))
	wantRefused(t, err, "intercept cleo-1 has no rule")
	if got := n.leftovers(t); got != nil {
		t.Errorf("after rules that were refused: got %v in the way, want nothing", got)
	}

	same := rule("anna") // in other words
	same.Match.Headers = []steer.HeaderMatch{{Name: "X-User", Value: "anna"}}
	same.Match.Path = "/"
	leave(t, anna.join(t, same, to("127.0.0.1:1")))
}

func TestTokensAreRefusedWithAReason(t *testing.T) {
	n := newNetwork(t)
	g := n.gate(t, annas(), grant("ben"))
	_, err := n.connect(t, "guess")
	wantNoToken(t, err, "no intercept of cart has this token: it may not have reached the agent of this node yet, or be over since long")
	_, err = n.connect(t, "")
	wantNoToken(t, err, "no intercept of cart has this token: it may not have reached the agent of this node yet, or be over since long")

	other := grant("ben")
	other.TokenHash = hash("another")
	g.Set([]Grant{other})
	_, err = n.connect(t, "anna")
	wantNoToken(t, err, "intercept anna-1 of anna is over: it was deleted or has expired; make it again")
	_, err = n.connect(t, "ben")
	wantNoToken(t, err, "intercept ben-1 of ben has another token now: it was made again")
	n.laptop(t, "another")

	g.Set([]Grant{annas()})
	n.laptop(t, "anna")
}

func TestARevokedGrantEndsItsSessionAndItsRule(t *testing.T) {
	n := newNetwork(t)
	n.app(t)
	g := n.gate(t, annas(), grant("ben"))
	anna, ben := n.laptop(t, "anna"), n.laptop(t, "ben")
	n.laptop(t, "anna")
	anna.join(t, rule("anna"), to(local(t, "anna")))
	ben.join(t, rule("ben"), to(local(t, "ben")))
	kept := n.browser(true)
	wantFrom(t, kept, "anna", "anna")
	if a, b, c := g.Sessions("anna-1"), g.Sessions("ben-1"), g.Sessions("cleo-1"); a != 2 || b != 1 || c != 0 {
		t.Errorf("sessions: got %d, %d and %d, want 2, 1 and 0", a, b, c)
	}

	g.Set([]Grant{grant("ben")})
	if rules := g.List(); len(rules) != 1 || rules[0].Rule.Owner != "ben" {
		t.Errorf("rules: got %+v, want ben's", rules)
	}
	if got := g.Sessions("anna-1"); got != 0 {
		t.Errorf("sessions of anna: got %d, want 0", got)
	}
	wantFrom(t, kept, "anna", "app")
	wantFrom(t, kept, "ben", "ben")
	await(t, anna.sess)
	wantNoToken(t, anna.sess.Err(), "intercept anna-1 of anna is over: it was deleted or has expired; make it again")

	// A grant that is another one now has to be taken anew.
	changed := grant("ben")
	changed.Rule.Strict = true
	g.Set([]Grant{changed})
	if got := g.List(); len(got) != 0 {
		t.Errorf("rules: got %+v, want none", got)
	}
	await(t, ben.sess)
	if !errors.Is(ben.sess.Err(), stream.ErrSessionLost) {
		t.Errorf("the session ended with %v, want %v", ben.sess.Err(), stream.ErrSessionLost)
	}
	n.laptop(t, "ben").join(t, *changed.Rule, to(local(t, "ben")))
	g.Set([]Grant{changed}) // the same again
	wantFrom(t, kept, "ben", "ben")
}

func await(t *testing.T, s *stream.Session) {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(limit):
		t.Fatal("the session does not end")
	}
}

func TestAGrantForRequestsOnlyGivesNothingElse(t *testing.T) {
	n := newNetwork(t)
	only := annas()
	only.Environment = false
	n.gate(t, only)
	anna := n.laptop(t, "anna")
	const want = "the intercept is for requests alone"
	if _, err := reach.GetPod(t.Context(), anna.sess); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("environment: got %v, want %s", err, want)
	}
	if _, err := reach.GetFiles(t.Context(), anna.sess, nil); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("files: got %v, want %s", err, want)
	}
	for _, network := range []string{"tcp", "udp"} {
		if _, err := reach.Dial(t.Context(), anna.sess, network, at(podIP).String()); !errors.Is(err, syscall.EACCES) {
			t.Errorf("dial %s: got %v, want %v", network, err, syscall.EACCES)
		}
	}
	r := reach.NewResolver(anna.sess)
	defer r.Close()
	if _, err := r.Exchange(t.Context(), question("db.")); err == nil {
		t.Error("resolve: got no error")
	}
	if all, err := steer.List(t.Context(), anna.sess); err != nil || len(all) != 0 {
		t.Errorf("list: got %v, %v, want none", all, err)
	}
	leave(t, anna.join(t, rule("anna"), to("127.0.0.1:1")))
}

func TestBadSettingsAreRefused(t *testing.T) {
	n := newNetwork(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for want, o := range map[string]Options{
		"nothing finds the pod's process":    {},
		"port 0 of the pod: want one from 1": {Process: options(nil).Process, Ports: []Port{{}}},
		"port 80 of the pod is named twice":  {Process: options(nil).Process, Ports: []Port{{Number: 80}, {Number: 80}}},
	} {
		if _, err := Open(t.Context(), n.pod, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if _, err := Open(ended, n.pod, options(nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("after the context's end: got %v, want %v", err, context.Canceled)
	}
	n.gate(t)
	if _, err := Open(t.Context(), n.pod, options(nil)); err == nil || !strings.Contains(err.Error(), "port 24448 of the pod's loopback is taken") {
		t.Errorf("a second gate: got %v, want refused", err)
	}
}
