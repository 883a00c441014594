package splice

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tcp returns both ends of a connection.
func tcp(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialed, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dialed.Close(); _ = accepted.Close() })
	return dialed.(*net.TCPConn), accepted.(*net.TCPConn)
}

// opaque hides that a connection is TCP's, but not what it can do.
type opaque struct{ *net.TCPConn }

// path joins two TCP connections and returns the outer ends.
func path(t *testing.T, ctx context.Context, hidden bool) (left, right *net.TCPConn, done chan struct{}) {
	t.Helper()
	left, a := tcp(t)
	b, right := tcp(t)
	done = make(chan struct{})
	go func() {
		defer close(done)
		if hidden {
			Conns(ctx, opaque{a}, b)
			return
		}
		Conns(ctx, a, b)
	}()
	return left, right, done
}

func ended(t *testing.T, done chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("not ended")
	}
}

func TestEachDirectionEndsByItself(t *testing.T) {
	for _, hidden := range []bool{false, true} {
		left, right, done := path(t, t.Context(), hidden)
		text := strings.Repeat("a long question ", 200_000)
		go func() { _, _ = io.WriteString(left, text); _ = left.CloseWrite() }()
		if got, err := io.ReadAll(right); string(got) != text || err != nil {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if _, err := io.WriteString(right, "the answer"); err != nil {
			t.Error(err)
		}
		_ = right.Close()
		if got, err := io.ReadAll(left); string(got) != "the answer" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		ended(t, done)
	}
}

func TestAResetStaysOne(t *testing.T) {
	for _, hidden := range []bool{false, true} {
		left, right, done := path(t, t.Context(), hidden)
		Abort(left)
		if _, err := right.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v, want a reset", err)
		}
		ended(t, done)
	}
}

func TestTheContextEndsAStalledPath(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	left, right, done := path(t, ctx, true)
	go func() { _, _ = io.WriteString(left, strings.Repeat("x", 64<<20)) }()
	if _, err := right.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cancel()
	ended(t, done)
}
