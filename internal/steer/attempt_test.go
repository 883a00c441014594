package steer

import (
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
)

func TestAttemptsReadTheSameBody(t *testing.T) {
	r, w := io.Pipe()
	b := newUpload(&incoming{d: &Door{}, body: r, close: r.Close})
	read := func(from io.Reader, n int) string {
		t.Helper()
		buf := make([]byte, n)
		if _, err := io.ReadFull(from, buf); err != nil {
			t.Fatal(err)
		}
		return string(buf)
	}
	send := func(s string) { go func() { _, _ = io.WriteString(w, s) }() }
	first, err := b.attempt()
	if err != nil {
		t.Fatal(err)
	}
	send("abc")
	want(t, "first", read(first, 3), "abc")
	given := make(chan error)
	go func() {
		_, err := first.Read(make([]byte, 1)) // waits
		given <- err
	}()
	for !func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.reading }() {
		runtime.Gosched()
	}
	_ = first.Close()
	if err := <-given; !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("the read of an attempt that was given up: %v", err)
	}
	second, err := b.attempt()
	if err != nil {
		t.Fatal(err)
	}
	send("def")
	want(t, "second", read(second, 6), "abcdef")
	b.settle()
	if _, err := b.attempt(); !errors.Is(err, errBegun) {
		t.Errorf("when it is settled: %v", err)
	}
	send(strings.Repeat("g", 100))
	want(t, "the rest", read(second, 100), strings.Repeat("g", 100))
	if b.begun != nil {
		t.Errorf("%d bytes are kept", len(b.begun))
	}
	_ = second.Close()
	if _, err := r.Read(make([]byte, 1)); err == nil {
		t.Error("the body is open")
	}
}

func TestALongBodyIsSentOnce(t *testing.T) {
	text := strings.Repeat("0123456789abcdef", maxKept/8)
	b := newUpload(&incoming{d: &Door{}, body: strings.NewReader(text)})
	first, err := b.attempt()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(first); string(got) != text || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := b.attempt(); !errors.Is(err, errBegun) {
		t.Error(err)
	}
}

// However many requests wait for an answer, a door keeps no more of them than it may.
func TestWhatADoorKeepsOfBodiesIsBounded(t *testing.T) {
	d := &Door{}
	var all []*upload
	kept := 0
	for range 2 * maxKeeping / maxKept {
		b := newUpload(&incoming{d: d, body: strings.NewReader(strings.Repeat("x", maxKept))})
		first, err := b.attempt()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(io.LimitReader(first, maxKept)); len(got) != maxKept || err != nil {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		kept += len(b.begun)
		all = append(all, b)
	}
	if most := maxKeeping + maxKept; kept > most || kept < maxKeeping/2 {
		t.Errorf("%d bytes are kept, at most %d may be", kept, most)
	}
	for _, b := range all {
		b.settle()
	}
	if n := d.keeping.Load(); n != 0 {
		t.Errorf("when all are answered it counts %d", n)
	}
}

// An app that says farewell after each answer loses no request whose body is a stream, which
// nobody could send twice.
func TestFarewellsOfTheAppLoseNothing(t *testing.T) {
	p := newPod(t, serveHTTP2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close") // GOAWAY
		_, _ = io.Copy(w, r.Body)
	})))
	anna := newPerson(t, p, "anna") // whose rule makes the door look at each request
	anna.join(t, anna.rule(Intercept, header("x-user", "anna")), to("127.0.0.1:1"))
	var all sync.WaitGroup
	for range 8 {
		hc, _ := clientHTTP2(t)
		for range 4 {
			all.Go(func() {
				for range 25 {
					req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+p.addr, io.MultiReader(strings.NewReader("abc")))
					if err != nil {
						t.Error(err)
						return
					}
					resp, err := hc.Do(req)
					if err != nil {
						t.Error(err)
						return
					}
					b, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if string(b) != "abc" || err != nil {
						t.Errorf("%d %q, %v", resp.StatusCode, b, err)
						return
					}
				}
			})
		}
	}
	all.Wait()
}
