package steer

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// askAs returns the status of an answer to somebody's request, and the answer.
func askAs(hc *http.Client, user, method, addr string) string {
	var body io.Reader
	if method == "POST" {
		body = strings.NewReader("abc")
	}
	req, err := http.NewRequest(method, "http://"+addr+"/x", body)
	if err != nil {
		return err.Error()
	}
	req.Header.Set("X-User", user)
	resp, err := hc.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(resp.StatusCode, " ", string(b))
}

// What one of a laptop's handlers does not answer, the other one does that replaces the app:
// nobody else is there.
func TestAnAppThatIsReplacedIsNotAskedInstead(t *testing.T) {
	const lost = "502 This request belongs to a laptop"
	for name, tt := range map[string]struct {
		handler   Handler // of the rule that says more
		strict    bool
		down      bool // nobody listens for the one that replaces the app
		get, post string
		// Counters.Requests of the one that replaces the app, Counters.Lost of the other.
		requests, lost int64
	}{
		"refused":    {to("127.0.0.1:1"), false, false, "200 anna GET /x 0", "200 anna POST /x 3", 2, 0},
		"breaks off": {breaking, false, false, "200 anna GET /x 0", lost, 1, 1},
		"strict":     {to("127.0.0.1:1"), true, false, lost, lost, 0, 2},
		"both down":  {to("127.0.0.1:1"), false, true, lost, lost, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			protocols(t, func(t *testing.T, serve func(testing.TB, http.Handler) string, client func() *http.Client) {
				p := newPod(t, "", replaceable(newMortal(t, named("app"))))
				anna := newPerson(t, p, "anna")
				other := to(serve(t, named("anna")))
				if tt.down {
					other = to("127.0.0.1:1")
				}
				anna.join(t, anna.rule(Replace, Match{}), other)
				r := anna.rule(Intercept, header("x-user", "anna"))
				r.Strict = tt.strict
				anna.join(t, r, tt.handler)
				hc := client()
				for method, want := range map[string]string{"GET": tt.get, "POST": tt.post} {
					if got := askAs(hc, "anna", method, p.addr); !strings.HasPrefix(got, want) {
						t.Errorf("%s: got %q, want %q", method, got, want)
					}
				}
				all := p.host.List()
				replaces, intercepts := all[0].Counters, all[1].Counters
				if replaces.Requests != tt.requests || replaces.Lost != 0 || intercepts.Requests != 0 || intercepts.Lost != tt.lost {
					t.Errorf("counted %+v and %+v", replaces, intercepts)
				}
				if !tt.down && replaces.ByApp+intercepts.ByApp != 0 {
					t.Errorf("the app has answered: %+v and %+v", replaces, intercepts)
				}
			})
		})
	}
}

// A rule that replaces the app does not wait for a request that is at a laptop. When that
// breaks it off, the process is stopped.
func TestARequestThatComesBackFindsTheAppReplaced(t *testing.T) {
	protocols(t, func(t *testing.T, serve func(testing.TB, http.Handler) string, client func() *http.Client) {
		p := newPod(t, "", replaceable(newMortal(t, named("app"))))
		anna := newPerson(t, p, "anna")
		came, release := make(chan struct{}), make(chan struct{})
		anna.join(t, anna.rule(Intercept, header("x-user", "anna")), func(context.Context, Info) (net.Conn, error) {
			here, there := net.Pipe()
			go func() {
				defer there.Close()
				_, _ = there.Read(make([]byte, 1024))
				close(came)
				<-release
			}()
			return here, nil
		})
		hc, got := client(), make(chan string, 1)
		go func() { got <- askAs(hc, "anna", "GET", p.addr) }()
		<-came
		anna.join(t, anna.rule(Replace, Match{}), to(serve(t, named("anna"))))
		close(release)
		want(t, "answer", <-got, "200 anna GET /x 0")
	})
}

// Nor does an app that is replaced get a connection of another protocol.
func TestAnAppThatIsReplacedGetsNoRawConnection(t *testing.T) {
	p := newPod(t, "", replaceable(newMortal(t, named("app"))))
	anna := newPerson(t, p, "anna")
	anna.join(t, anna.rule(Replace, Match{}), to(greeter(t, "anna")))
	anna.join(t, anna.rule(Intercept, Match{}), to("127.0.0.1:1"))
	if s, err := dial(t, p.addr).r.ReadString('\n'); err != nil || s != "220 anna\r\n" {
		t.Errorf("got %q, %v", s, err)
	}
	for _, s := range p.host.List() {
		if s.Counters.ByApp != 0 {
			t.Errorf("%s: counted %+v", s.Rule.Mode, s.Counters)
		}
	}
}

// An app that is there answers what one of a laptop's handlers does not, whatever its other
// rules are about.
func TestTheAppIsAskedBeforeAnotherHandler(t *testing.T) {
	protocols(t, func(t *testing.T, serve func(testing.TB, http.Handler) string, client func() *http.Client) {
		p := newPod(t, serve(t, named("app")))
		anna := newPerson(t, p, "anna")
		anna.join(t, anna.rule(Intercept, Match{}), to(serve(t, named("anna"))))
		anna.join(t, anna.rule(Intercept, header("x-user", "anna")), to("127.0.0.1:1"))
		want(t, "answer", askAs(client(), "anna", "GET", p.addr), "200 app GET /x 0")
		if all := p.host.List(); all[0].Counters.Requests != 0 || all[0].Counters.ByApp != 0 || all[1].Counters.ByApp != 1 {
			t.Errorf("counted %+v", all)
		}
	})
}
