package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/bightdev/bight/internal/live"
	"github.com/bightdev/bight/internal/steer"
	"github.com/bightdev/bight/internal/stream"
)

// A laptop takes the process's place and is gone without a word.
func TestProcessIsReplaced(t *testing.T) {
	p := newPod(t)
	door, ready := freePort(t), freePort(t)
	p.flags = []string{"--door", door + "=" + p.port + "/http", "--ready", "tcp:" + p.port, "--ready-at", ready}
	p.start()
	p.isReady(ready)
	s := p.session()
	s.Want(want(t, 1, map[string]string{"version.txt": "one"}))
	s.await(t, "sync", synced(1))
	at := "http://127.0.0.1:" + door + "/"
	eventually(t, "the process answers", func() bool { return strings.Contains(get(at), "one") })

	laptop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the laptop") }))
	defer laptop.Close()
	ctx, gone := context.WithCancel(t.Context())
	sess := p.join(ctx, steer.Replace, laptop)
	s.await(t, "the session is told", func(ev live.Event) bool { return ev.Kind == live.Replaced && ev.By == "ada@laptop" })
	if got := get(at); got != "the laptop" {
		t.Errorf("%q answers", got)
	}
	if _, err := net.Dial("tcp", "127.0.0.1:"+p.port); err == nil {
		t.Error("the process listens")
	}
	p.isReady(ready)
	s.Want(want(t, 2, map[string]string{"version.txt": "two"}))
	s.await(t, "a save is staged", synced(2))
	if got := get(at); got != "the laptop" {
		t.Errorf("after a save, %q answers", got)
	}
	late := p.session()
	late.await(t, "a session that comes later is told", func(ev live.Event) bool { return ev.Kind == live.Replaced && ev.By == "ada@laptop" })

	gone()
	<-sess.Done()
	eventually(t, "the newest files answer", func() bool { return strings.Contains(get(at), "two") })
	p.isReady(ready)
	if starts := s.State().Agent.Process.Starts; starts != 3 {
		t.Errorf("the process was started %d times, want 3", starts)
	}
	if _, exited := s.find(func(ev live.Event) bool { return ev.Kind == live.Exited }); exited {
		t.Error("the session was told that the process had ended by itself")
	}
}

// join has a laptop answer for the process, until ctx ends.
func (p *pod) join(ctx context.Context, mode steer.Mode, laptop *httptest.Server) *stream.Session {
	p.t.Helper()
	port, err := strconv.Atoi(p.port)
	must(p.t, err)
	ada := &steer.Laptop{}
	client := &stream.Client{Token: "secret", Handle: ada.Handle, Dial: func(ctx context.Context) (io.ReadWriteCloser, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", p.addr)
	}}
	sess, err := client.Connect(ctx)
	must(p.t, err)
	rule := steer.Rule{ID: "web-1", Owner: "ada@laptop", Service: "web", Port: port, Mode: mode}
	_, err = ada.Join(ctx, sess, rule, func(ctx context.Context, _ steer.Info) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", laptop.Listener.Addr().String())
	})
	must(p.t, err)
	return sess
}

func get(url string) string {
	response, err := http.Get(url)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
