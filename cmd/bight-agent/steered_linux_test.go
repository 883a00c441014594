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

	"github.com/bightdev/bight/internal/steer"
)

// A browser at the URL of bight up has its connection from before the intercept.
func TestConnectionsOfASessionAreSteered(t *testing.T) {
	p := newPod(t)
	door, ready := freePort(t), freePort(t)
	p.flags = []string{"--door", door + "=" + p.port + "/http", "--ready", "tcp:" + p.port, "--ready-at", ready}
	p.start()
	p.isReady(ready)
	s := p.session()
	s.Want(want(t, 1, map[string]string{"version.txt": "one"}))
	s.await(t, "sync", synced(1))
	port, err := strconv.Atoi(p.port)
	must(t, err)
	dialled := 0
	url := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		dialled++
		return s.DialPort(ctx, port)
	}}}
	ask := func() string {
		response, err := url.Get("http://web/")
		if err != nil {
			return err.Error()
		}
		defer response.Body.Close()
		b, _ := io.ReadAll(response.Body)
		return string(b)
	}
	eventually(t, "the process answers", func() bool { return strings.Contains(ask(), "one") })
	before := dialled

	laptop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the laptop") }))
	defer laptop.Close()
	p.join(t.Context(), steer.Intercept, laptop)
	if got := ask(); got != "the laptop" || dialled != before {
		t.Errorf("%q answers, on connection %d; the first is %d", got, dialled, before)
	}
}
