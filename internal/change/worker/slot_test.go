package worker

import (
	"context"
	"log/slog"
	"testing"

	"github.com/bightdev/bight/internal/change/repo"
)

// The steps of a commit share a working copy; one of them being told to stop is nothing to the others.
func TestWhoSharesAWorkingCopyOutlivesWhoBeganIt(t *testing.T) {
	w := &Worker{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	at := place{"shop.shop.read", true}
	first, stop := context.WithCancel(t.Context())
	begun, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		s, err := w.open(first, at, "shop.shop.read 1", func(string) (*repo.Copy, error) {
			close(begun)
			<-first.Done()
			return nil, first.Err()
		})
		w.leave(s)
		ended <- err
	}()
	<-begun
	shared, want := make(chan *slot, 1), &repo.Copy{Commit: "1"}
	go func() {
		s, err := w.open(t.Context(), at, "shop.shop.read 1", func(string) (*repo.Copy, error) { return want, nil })
		if err != nil {
			t.Errorf("who shared it got %v", err)
		}
		shared <- s
	}()
	stop()
	if err := <-ended; err == nil {
		t.Error("who was told to stop got a copy")
	}
	s := <-shared
	if s.copy != want {
		t.Errorf("who shared it has %+v", s.copy)
	}
	again, err := w.open(t.Context(), at, "shop.shop.read 1", func(string) (*repo.Copy, error) {
		t.Error("what is there was made again")
		return nil, nil
	})
	if err != nil || again != s {
		t.Errorf("another got %+v, %v", again, err)
	}
}
