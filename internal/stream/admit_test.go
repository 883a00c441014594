package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// grants admits by a map of tokens.
type grants struct {
	mu sync.Mutex
	m  map[string]string
}

func (g *grants) admit(token string) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if who, ok := g.m[token]; ok {
		return who, nil
	}
	return "", fmt.Errorf("nobody has the token %s\x1b[31m", token)
}

func (g *grants) set(m map[string]string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.m = m
}

// admitting serves what g admits, and returns clients' means to connect.
func admitting(t *testing.T, g *grants) (*Server, func(token string) *Client) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &Server{Admit: g.admit, Handle: func(_ context.Context, st *Stream) {
		_, _ = io.WriteString(st, st.Session().Who())
	}}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- v.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return v, func(token string) *Client {
		return &Client{Token: token, Dial: func(ctx context.Context) (io.ReadWriteCloser, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
		}}
	}
}

func connectAs(t *testing.T, c *Client) *Session {
	t.Helper()
	s, err := c.Connect(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func wantWho(t *testing.T, s *Session, want string) {
	t.Helper()
	st, err := s.Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if b, err := io.ReadAll(st); string(b) != want || err != nil {
		t.Errorf("the server has found %q, %v, want %q", b, err, want)
	}
}

func TestSessionIsOfWhoeverWasAdmitted(t *testing.T) {
	g := &grants{m: map[string]string{"1": "anna", "2": "ben"}}
	v, client := admitting(t, g)
	anna, ben := connectAs(t, client("1")), connectAs(t, client("2"))
	wantWho(t, anna, "anna")
	wantWho(t, ben, "ben")
	if got := v.Sessions(func(who string) bool { return who == "anna" }); got != 1 {
		t.Errorf("sessions of anna: got %d, want 1", got)
	}
	_, err := client("3").Connect(t.Context())
	refused, ok := errors.AsType[*RefusedError](err)
	if want := "the agent in the pod refused the connection: nobody has the token 3 [31m"; !ok || refused.Refusal != RefusedToken || refused.Text != want {
		t.Errorf("token of nobody: got %v, want %s", err, want)
	}
}

func TestASessionIsNotGoneOnWithBySomebodyElse(t *testing.T) {
	g := &grants{m: map[string]string{"1": "anna", "2": "ben"}}
	_, client := admitting(t, g)
	anna := connectAs(t, client("1"))
	for token, want := range map[string]error{"2": ErrSessionLost, "1": nil} {
		c := client(token)
		_, w, err := c.attempt(t.Context(), c.Dial, c.Limits.withDefaults(), &Session{id: anna.id})
		if !errors.Is(err, want) || want == nil && w.Session != anna.id {
			t.Errorf("go on with token %s: got %v, %v, want %v", token, w.Session, err, want)
		}
	}
}

func TestEndedSessionsComeBackToTheReason(t *testing.T) {
	g := &grants{m: map[string]string{"1": "anna", "2": "ben"}}
	v, client := admitting(t, g)
	anna, ben := connectAs(t, client("1")), connectAs(t, client("2"))
	g.set(map[string]string{"2": "ben"})
	v.End(func(who string) bool { return who == "anna" }, errors.New("anna's grant was taken back"))
	select {
	case <-anna.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the session does not end")
	}
	if refused, ok := errors.AsType[*RefusedError](anna.Err()); !ok || refused.Refusal != RefusedToken {
		t.Errorf("the session ended with %v, want a refusal", anna.Err())
	}
	if got := v.Sessions(func(string) bool { return true }); got != 1 {
		t.Errorf("sessions: got %d, want 1", got)
	}
	wantWho(t, ben, "ben")
	// Who has another token by now is told to connect again.
	v.End(func(string) bool { return true }, errors.New("changed"))
	<-ben.Done()
	if !errors.Is(ben.Err(), ErrSessionLost) {
		t.Errorf("the session ended with %v, want %v", ben.Err(), ErrSessionLost)
	}
}
