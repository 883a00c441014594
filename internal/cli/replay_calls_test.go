package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/replay"
)

func TestARoundsCallsAreKept(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/events" {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		fmt.Fprint(w, "seven")
	}))
	defer service.Close()
	var errs bytes.Buffer
	p := &Program{Stdout: io.Discard, Stderr: &errs}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "calls.json")
	s := &stage{
		p: p, f: &replayFlags{record: file}, printer: p.printer(false, nil), player: &replay.Player{}, keeps: v1alpha1.ReleaseEvidence{Hide: []string{"customer"}},
		bundle: &evidence.Bundle{Release: "cart-7", Namespace: "shop"}, pairs: []*evidence.Pair{{ID: "a/1"}},
	}
	var o bridge.Order
	end := s.connect(t.Context(), &o)
	defer end()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, to string) (net.Conn, error) {
		return o.Calls.Connect(ctx, to, func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", service.Listener.Addr().String())
		})
	}}}
	for _, path := range []string{"/items/7?customer=ada", "/events"} {
		resp, err := client.Get("http://stock.shop:7000" + path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	s.settle(t.Context())

	// A round that was not played to its end is not kept.
	if err := s.keep(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a part of a round is kept")
	}
	if want := file + " is as it was, since"; !strings.Contains(errs.String(), want) {
		t.Errorf("%q is not said:\n%s", want, errs.String())
	}
	if err := s.keep(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	r, err := readRecording(file)
	if err != nil || r.Release != "cart-7" || len(r.Calls) != 2 || r.Calls[0].URL != "http://stock:7000/items/7?customer=%5Bhidden%5D" || string(r.Calls[0].Answer.Body) != "seven" {
		t.Errorf("kept is %+v, %v", r, err)
	}
	for _, want := range []string{"has 2 calls to 1 place", "without an answer is GET http://stock:7000/events: its answer (text/event-stream)"} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("%q is not said:\n%s", want, errs.String())
		}
	}
	ours := s.ours()
	if !ours(file) || !ours(filepath.Join(filepath.Dir(file), ".put-7")) || ours(filepath.Join(filepath.Dir(file), "main.go")) {
		t.Error("a round begins for what the one before has written, or for nothing else")
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Dir(file), link); err != nil {
		t.Fatal(err)
	}
	s.f.record = filepath.Join(link, filepath.Base(file))
	if ours := s.ours(); !ours(file) || !ours(filepath.Join(filepath.Dir(file), ".put-7")) {
		t.Error("a round begins for what is written through a symbolic link")
	}
	s.f.record = filepath.Join(file, "below")
	if err := s.keep(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "write "+s.f.record) {
		t.Errorf("where nothing can be written: %v", err)
	}
}

func TestAReleasedCommitMustFail(t *testing.T) {
	s := &stage{f: &replayFlags{}, bundle: &evidence.Bundle{Release: "cart-7"}}
	c := commit{Hash: "fedcba987654", Title: "one basket"}
	for _, tt := range []struct {
		is       replay.Tried
		recorded string
		want     string // "" for no error
	}{
		{replay.IsBad, "", ""},
		{replay.IsGood, "", "no request fails here"},
		{replay.IsGood, "c.json", "no request fails here"},
		{replay.IsUnknown, "", "at fedcba987654 one basket, which was released, it can't be told: so it is"},
		{replay.IsUnknown, "c.json", "which was released, it can't be told: so it is; bight replay cart-7 --record c.json records again"},
	} {
		s.f.recorded = tt.recorded
		err := s.mustFail(c, tt.is, "so it is")
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("if it is %v, recorded %q: %v, want %q", tt.is, tt.recorded, err, tt.want)
		}
	}
}

func TestWhatThePlanSaysOfBodiesIsObeyed(t *testing.T) {
	for _, tt := range []struct {
		file string
		plan v1alpha1.ReleaseEvidence
		want string // "" for no error
	}{
		{"c.json", v1alpha1.ReleaseEvidence{Hide: []string{"customer"}, NoAgain: true}, ""},
		{"c.json", v1alpha1.ReleaseEvidence{Off: true}, "evidence.off"},
		{"c.json", v1alpha1.ReleaseEvidence{NoBodies: true}, "evidence.noBodies"},
		{"", v1alpha1.ReleaseEvidence{Off: true, NoBodies: true}, ""},
	} {
		err := recordable(tt.file, tt.plan)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("--record %q with %+v: %v, want %q", tt.file, tt.plan, err, tt.want)
		}
	}
}
