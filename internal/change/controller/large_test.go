package controller

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/change/host"
	"github.com/bightdev/bight/internal/change/repo"
)

// anybody may do everything.
type anybody struct{}

func (anybody) Authenticate(context.Context, *http.Request) (repo.User, error) {
	return repo.User{Name: "ann"}, nil
}
func (anybody) Authorize(context.Context, repo.User, string, string, string) error { return nil }

// Anybody can open a request that is too large: it is fetched once for each of its heads, and the others come all the same.
func TestARequestThatIsTooLargeIsFetchedOnce(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	server := &repo.Server{Store: repo.Store{Root: t.TempDir()}, Access: anybody{}, HookCommand: []string{program}, Log: slog.New(slog.DiscardHandler)}
	there, err := server.Store.Create(t.Context(), "shop", "web", "main")
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Open(); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	var packs atomic.Int32 // that were asked for
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.Header.Get("Content-Encoding") == "" {
			packs.Add(1)
		}
		server.ServeHTTP(w, r)
	}))
	defer web.Close()
	noise := make([]byte, 1<<20)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	open := map[int]string{}
	head := func(number int, content []byte) host.Request {
		t.Helper()
		ref := fmt.Sprintf("refs/pull/%d/head", number)
		commit, err := there.WriteCommit(t.Context(), repo.Writing{Files: map[string][]byte{"file": content}, Message: "m", Author: repo.Signature{Name: "Eve", Email: "eve@example.org", When: time.Unix(1700000000, 0).UTC()}})
		if err == nil {
			err = there.UpdateRef(t.Context(), ref, commit, open[number])
		}
		if err != nil {
			t.Fatal(err)
		}
		open[number] = commit
		return host.Request{Number: number, HeadCommit: commit, BaseBranch: "main", Fork: true}
	}
	store := repo.Store{Root: t.TempDir()}
	here, err := store.Create(t.Context(), "shop", "web", "main")
	if err != nil {
		t.Fatal(err)
	}
	f := &follower{c: &Controller{Log: slog.New(slog.DiscardHandler)}}
	conn := connection{remote: repo.Remote{URL: web.URL + "/git/shop/web.git", MaxFetch: 256 << 10}, requests: "refs/pull/%d/head"}
	fetch := func(what string, wantPacks bool, want map[int]bool, requests ...host.Request) {
		t.Helper()
		packs.Store(0)
		if err := f.fetchForks(t.Context(), here, conn, requests); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if asked := packs.Load() > 0; asked != wantPacks {
			t.Errorf("%s: something was fetched: %v", what, asked)
		}
		refs, err := here.Refs(t.Context(), hostRefs+"requests/")
		if err != nil {
			t.Fatal(err)
		}
		for number, is := range want {
			if got := refs[fmt.Sprintf("%srequests/%d", hostRefs, number)] == open[number]; got != is {
				t.Errorf("%s: request %d is here: %v", what, number, got)
			}
		}
	}
	small, large, other := head(7, []byte("small")), head(8, noise), head(9, []byte("other"))
	fetch("all together", true, map[int]bool{7: true, 8: false, 9: true}, small, large, other)
	told := "; request 8 is left out until it has another head than " + large.HeadCommit[:12] + ": what it would bring is larger than the limit of 256.0 KiB"
	if got := f.leftOut(); got != told {
		t.Errorf("told:%s", got)
	}
	fetch("again", false, map[int]bool{7: true, 8: false, 9: true}, small, large, other)
	small = head(7, []byte("another"))
	fetch("another has moved", true, map[int]bool{7: true, 8: false, 9: true}, small, large, other)
	large = head(8, noise[:1<<19])
	fetch("it has moved", true, map[int]bool{8: false}, small, large, other)
	fetch("again", false, map[int]bool{8: false}, small, large, other)
	large = head(8, []byte("mended"))
	fetch("it is mended", true, map[int]bool{7: true, 8: true, 9: true}, small, large, other)
	if got := f.leftOut(); got != "" {
		t.Errorf("told:%s", got)
	}
	large = head(8, noise[1<<19:])
	fetch("alone", true, map[int]bool{8: false}, large)
	fetch("closed", true, map[int]bool{7: true, 9: true}, small, other)
	if len(f.large) != 0 {
		t.Errorf("remembered: %v", f.large)
	}
	for number := range 12 {
		f.large[number] = largeRequest{commit: "0123456789abcdef"}
	}
	if got := f.leftOut(); strings.Count(got, "request") != mostLeftOut || !strings.HasSuffix(got, "; and 7 more") {
		t.Errorf("of many:%s", got)
	}
}
