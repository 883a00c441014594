package controller

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/internal/change/host"
)

func TestWebhooks(t *testing.T) {
	kicks := 0
	deliveries := &host.Deliveries{}
	h := &webhooks{turn: make(chan struct{}, 1), find: func(_ context.Context, app client.ObjectKey) (receiver, bool, error) {
		switch app.Name {
		case "shop":
			return receiver{&host.Gitea{}, "s3cret", deliveries, func() { kicks++ }}, true, nil
		case "unsigned":
			return receiver{&host.Gitea{}, "", deliveries, func() { kicks++ }}, false, nil
		case "later":
			return receiver{}, false, errors.New("the API server is away")
		}
		return receiver{}, false, nil
	}}
	mux := http.NewServeMux()
	mux.Handle("POST /hooks/{namespace}/{app}", h)
	server := httptest.NewServer(mux)
	defer server.Close()
	send := func(app, secret, kind, delivery, body string) (int, string) {
		t.Helper()
		r, err := http.NewRequest(http.MethodPost, server.URL+"/hooks/ns/"+app, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(body))
		r.Header.Set("X-Gitea-Signature", hex.EncodeToString(mac.Sum(nil)))
		r.Header.Set("X-Gitea-Event", kind)
		r.Header.Set("X-Gitea-Delivery", delivery)
		answer, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text := new(strings.Builder)
		if err := answer.Write(text); err != nil {
			t.Fatal(err)
		}
		_, said, _ := strings.Cut(text.String(), "\r\n\r\n")
		return answer.StatusCode, said
	}
	push := `{"ref": "refs/heads/fix", "repository": {"full_name": "acme/shop"}}`
	for _, test := range []struct {
		name, app, secret, kind, delivery, body string
		status, kicks                           int
	}{
		{"a push", "shop", "s3cret", "push", "1", push, 202, 1},
		{"again", "shop", "s3cret", "push", "1", push, 409, 1},
		{"again under another name", "shop", "s3cret", "push", "2", push, 409, 1},
		{"something else", "shop", "s3cret", "star", "3", `{"action": "created"}`, 202, 1},
		{"another push", "shop", "s3cret", "push", "4", strings.Replace(push, "fix", "more", 1), 202, 2},
		{"no JSON", "shop", "s3cret", "push", "5", "{", 400, 2},
		{"too large", "shop", "s3cret", "push", "6", strings.Repeat(" ", maxHook+1), 413, 2},
		{"too large for no app", "none", "s3cret", "push", "6", strings.Repeat(" ", maxHook+1), 413, 2},
		{"the API server is away", "later", "s3cret", "push", "7", push, 503, 2},
	} {
		if status, said := send(test.app, test.secret, test.kind, test.delivery, test.body); status != test.status || kicks != test.kicks {
			t.Errorf("%s: %d %q and %d looks, want %d and %d", test.name, status, said, kicks, test.status, test.kicks)
		}
	}
	status, forged := send("shop", "guessed", "push", "8", push)
	if status != 401 {
		t.Errorf("forged: %d %s", status, forged)
	}
	for _, app := range []string{"none", "unsigned"} {
		for _, secret := range []string{"guessed", ""} {
			if status, said := send(app, secret, "push", "8", push); status != 401 || said != forged {
				t.Errorf("of %s, signed with %q: %d %q, want what a forged one is told: %q", app, secret, status, said, forged)
			}
		}
	}
	if kicks != 2 {
		t.Errorf("looked %d times", kicks)
	}
}

// pipes is a listener whose connections are in memory.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	conn, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}
func (p pipes) Close() error { close(p); return nil }
func (pipes) Addr() net.Addr { return &net.TCPAddr{} }

// post begins a webhook with the first part of a body, and returns what status is answered.
func (p pipes) post(length int, part string) (io.Closer, <-chan int) {
	here, there := net.Pipe()
	p <- there
	status := make(chan int, 1)
	go func() {
		_, _ = fmt.Fprintf(here, "POST /hooks/ns/shop HTTP/1.1\r\nHost: x\r\nX-Gitea-Event: push\r\nContent-Length: %d\r\n\r\n%s", length, part)
	}()
	go func() {
		if answer, err := http.ReadResponse(bufio.NewReader(here), nil); err == nil {
			status <- answer.StatusCode
		}
		close(status)
	}()
	return here, status
}

// Anybody who reaches the port may announce webhooks and send none, or parts of them.
func TestWebhooksThatDoNotComeHoldUpNoOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := (&Controller{}).webhooks()
		h.find = func(context.Context, client.ObjectKey) (receiver, bool, error) { return receiver{}, false, nil }
		mux := http.NewServeMux()
		mux.Handle("POST /hooks/{namespace}/{app}", h)
		listener, server := make(pipes), &http.Server{Handler: mux}
		served := make(chan error)
		go func() { served <- server.Serve(listener) }()

		began := time.Now()
		var idle []<-chan int
		for range 3 * hooksAtOnce {
			_, status := listener.post(maxHook, "")
			idle = append(idle, status)
		}
		synctest.Wait()
		if _, status := listener.post(2, "{}"); <-status != http.StatusUnauthorized || time.Since(began) > 0 {
			t.Errorf("one beside them was answered after %s", time.Since(began))
		}
		for _, status := range idle {
			if got := <-status; got != http.StatusRequestTimeout || time.Since(began) != hookTime {
				t.Errorf("one that does not come is told %d after %s", got, time.Since(began))
			}
		}

		var parts []io.Closer
		for range hooksAtOnce {
			conn, _ := listener.post(maxHook, strings.Repeat(" ", maxHook-1))
			parts = append(parts, conn)
			synctest.Wait()
		}
		if _, status := listener.post(maxHook, strings.Repeat(" ", 1<<20)); <-status != http.StatusServiceUnavailable {
			t.Error("more is read than there is room for")
		}
		for _, conn := range parts {
			_ = conn.Close()
		}
		synctest.Wait()
		if held := h.held.Load(); held != 0 {
			t.Errorf("%d bytes are held of webhooks that have ended", held)
		}
		time.Sleep(time.Second) // the server lets who is turned away hear it
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-served
	})
}
