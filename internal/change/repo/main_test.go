//go:build unix

package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/bearer"
)

// TestMain lets git call this program as the server's hook.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "git-hook" {
		if err := Hook(context.Background(), os.Args[2], os.Stdin, os.Stdout, os.Stderr, os.Environ()); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 3 && os.Args[1] == "git-serve" {
		serveForever(os.Args[2])
	}
	os.Exit(m.Run())
}

// serveForever is a server in a process of its own, for tests to kill. It says its address on stdout.
func serveForever(root string) {
	s := &Server{Store: Store{Root: root}, Access: people{"ann": {"get shop/web", "update shop/web"}}, HookCommand: []string{os.Args[0], "git-hook"}, Stall: time.Hour}
	if err := s.Open(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(httptest.NewServer(s).URL)
	select {}
}

// people is an Access for tests: a token is a user's name, rights are "VERB NAMESPACE/APP".
type people map[string][]string

func (p people) Authenticate(_ context.Context, r *http.Request) (User, error) {
	_, token, _ := r.BasicAuth()
	switch _, known := p[token]; {
	case token == "broken":
		return User{}, errors.New("the API server is away")
	case token == "many":
		return User{}, bearer.ErrMany
	case !known:
		return User{}, fmt.Errorf("%w: never heard of it", ErrUnauthenticated)
	}
	return User{Name: token}, nil
}

func (p people) Authorize(_ context.Context, user User, namespace, app, verb string) error {
	if !slices.Contains(p[user.Name], verb+" "+namespace+"/"+app) {
		return &DeniedError{User: user.Name, Verb: verb, Namespace: namespace, App: app}
	}
	return nil
}

// forge is a server with one app, shop/web, and one that nobody has made, shop/none.
type forge struct {
	*Server
	*Repository
	http *httptest.Server

	mu     sync.Mutex
	pushes []Push
	refuse func(Push) error
}

func newForge(t testing.TB, change func(*Server)) *forge {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f := &forge{}
	f.Server = &Server{
		Store: Store{Root: t.TempDir()},
		Access: people{
			"ann": {"get shop/web", "update shop/web", "get shop/none", "update shop/none"},
			"bob": {"get shop/web"},
		},
		HookCommand: []string{program, "git-hook"},
		OnPush:      f.onPush,
	}
	if change != nil {
		change(f.Server)
	}
	if f.Repository, err = f.Store.Create(t.Context(), "shop", "web", "main"); err != nil {
		t.Fatal(err)
	}
	if err := f.Server.Open(); err != nil {
		t.Fatal(err)
	}
	f.http = httptest.NewServer(f.Server)
	t.Cleanup(func() {
		f.http.Close()
		if err := f.Server.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *forge) onPush(_ context.Context, p Push) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		if err := f.refuse(p); err != nil {
			return nil, err
		}
	}
	f.pushes = append(f.pushes, p)
	if p.Change {
		return []string{"change " + p.New[:12] + " queued"}, nil
	}
	return nil, nil
}

// seen returns the pushes so far and forgets them.
func (f *forge) seen() []Push {
	f.mu.Lock()
	defer f.mu.Unlock()
	pushes := f.pushes
	f.pushes = nil
	return pushes
}

func (f *forge) url(user, path string) string {
	return strings.Replace(f.http.URL, "http://", "http://any:"+user+"@", 1) + "/git/" + path
}

func (f *forge) web(user string) string { return f.url(user, "shop/web.git") }

// user is a person's git with a working copy, apart from this machine's configuration.
type user struct {
	t   testing.TB
	dir string
}

func newUser(t testing.TB) user {
	u := user{t, t.TempDir()}
	u.git("init", "--quiet", "--initial-branch=main")
	return u
}

func (u user) try(args ...string) (string, error) {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = u.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + u.dir, "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=ann@example.org", "GIT_COMMITTER_NAME=Ann", "GIT_COMMITTER_EMAIL=ann@example.org"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func (u user) git(args ...string) string {
	u.t.Helper()
	out, err := u.try(args...)
	if err != nil {
		u.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

// write makes a file of the working copy.
func (u user) write(name, text string) {
	u.t.Helper()
	path := filepath.Join(u.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		u.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		u.t.Fatal(err)
	}
}

// commit writes files, given as name and text in turn, and commits everything.
func (u user) commit(message string, files ...string) string {
	u.t.Helper()
	for i := 0; i < len(files); i += 2 {
		u.write(files[i], files[i+1])
	}
	u.git("add", "--all")
	u.git("commit", "--quiet", "--allow-empty", "--message", message)
	return u.git("rev-parse", "HEAD")
}

// ann and bight sign commits in tests, at times that make hashes equal from run to run.
var (
	ann   = Signature{Name: "Ann", Email: "ann@example.org", When: time.Unix(1700000000, 0).UTC()}
	bight = Signature{Name: "Bight", Email: "bight@example.org", When: time.Unix(1700000100, 0).UTC()}
)

// newRepository is an empty repository without a server.
func newRepository(t testing.TB) *Repository {
	t.Helper()
	r, err := Create(t.Context(), filepath.Join(t.TempDir(), "web.git"), "main")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// grow makes a commit of files, given as name and text in turn, on top of a parent.
func grow(t testing.TB, r *Repository, parent, message string, files ...string) string {
	t.Helper()
	w := Writing{Parent: parent, Message: message, Author: ann, Files: map[string][]byte{}}
	for i := 0; i < len(files); i += 2 {
		w.Files[files[i]] = []byte(files[i+1])
	}
	commit, err := r.WriteCommit(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	return commit
}

// files returns what a commit has, as path -> text.
func files(t testing.TB, r *Repository, commit string) map[string]string {
	t.Helper()
	entries, err := r.Tree(t.Context(), commit)
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, e := range entries {
		text, err := r.ReadFile(t.Context(), commit, e.Path, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		texts[e.Path] = string(text)
	}
	return texts
}
