package repo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/bearer"
	"github.com/bightdev/bight/internal/diskspace"
)

// The verbs of Kubernetes' RBAC on apps.bight.dev that git needs.
const (
	VerbFetch = "get"
	VerbPush  = "update"
)

// User is who talks to a [Server], as Kubernetes knows them.
type User struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string
}

// Access decides who may do what.
type Access interface {
	// Authenticate returns who makes the request, or [ErrUnauthenticated] where it has no valid credentials.
	Authenticate(ctx context.Context, r *http.Request) (User, error)
	// Authorize returns nil, or a [DeniedError] where the user has not the right.
	Authorize(ctx context.Context, user User, namespace, app, verb string) error
}

// Push is what a user did to one ref.
type Push struct {
	Namespace string
	App       string
	User      User
	Ref       string   // refs/heads/... or refs/tags/...
	Old       string   // where the ref was, "" if it is new
	New       string   // where the user wants it, "" if it is deleted
	Kept      string   // the ref that keeps New; "" for tags and for what is deleted
	Change    bool     // Ref is the App's branch, which has not moved
	Forced    bool     // Old is no ancestor of New: history is rewritten
	Options   []string // of git push -o
}

// Defaults of a server's settings.
const (
	defaultMaxPush = 2 << 30
	defaultMaxFile = 1 << 30
	defaultMinFree = 64 << 20
	defaultStall   = time.Minute
	defaultAtOnce  = 32
	maxSocket      = 100         // bytes of a socket's path; systems have 104 and more
	pushTimeout    = time.Minute // for OnPush and the refs of one push
)

// Server serves the repositories of a [Store] at /git/NAMESPACE/APP.git over git's smart HTTP. Set the fields,
// then Open, and Close at the end.
//
// A push to the App's branch does not move it: the commit is kept, and OnPush makes a change of it. Other
// branches and tags move, then OnPush hears of it; if it refuses, they move back.
type Server struct {
	Store  Store
	Access Access
	// HookCommand is the program which calls [Hook] and its arguments, to which the hook's name is appended.
	HookCommand []string
	// OnPush is told of each ref that is pushed. Its lines are shown to the user; an error refuses the ref, and
	// its text is shown. It is called for one ref of a repository at a time. May be nil.
	OnPush  func(ctx context.Context, p Push) ([]string, error)
	MaxPush int64         // bytes of one push; 0 is 2 GiB
	MaxFile int64         // bytes of one file; 0 is 1 GiB
	MinFree int64         // bytes that the repositories' volume must have left for a push; 0 is 64 MiB
	Stall   time.Duration // how long a client may neither send nor take anything; 0 is a minute
	AtOnce  int           // requests that run git at the same time, the others wait; 0 is 32
	Log     *slog.Logger  // nil for none

	backend string // the path of git's http-backend
	runDir  string // hooks and socket
	slots   chan struct{}
	life    context.Context // ends with Close
	end     context.CancelCauseFunc
	hooks   net.Listener
	running sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	receiving map[string]*receiving    // pushes under way, by token
	turns     map[string]chan struct{} // by repository: refs are moved by one push at a time
	tidying   map[string]bool          // by repository
}

// errClosed is why requests end when the server does.
var errClosed = errors.New("the git server is shutting down: push or fetch again")

// Open makes the server ready.
func (s *Server) Open() error {
	if len(s.HookCommand) == 0 || s.Access == nil {
		return errors.New("git server: HookCommand and Access must be set")
	}
	if s.MaxPush == 0 {
		s.MaxPush = defaultMaxPush
	}
	if s.MaxFile == 0 {
		s.MaxFile = defaultMaxFile
	}
	if s.MinFree == 0 {
		s.MinFree = defaultMinFree
	}
	if s.Stall == 0 {
		s.Stall = defaultStall
	}
	if s.AtOnce == 0 {
		s.AtOnce = defaultAtOnce
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	s.slots = make(chan struct{}, s.AtOnce)
	s.receiving = map[string]*receiving{}
	s.turns = map[string]chan struct{}{}
	s.tidying = map[string]bool{}
	s.life, s.end = context.WithCancelCause(context.Background())
	if err := CheckGit(s.life); err != nil {
		return fmt.Errorf("git server: %w", err)
	}
	backend, err := backendProgram(s.life)
	if err != nil {
		return fmt.Errorf("git server: %w", err)
	}
	s.backend = backend
	if s.runDir, err = os.MkdirTemp("", "bight-git-*"); err != nil {
		return fmt.Errorf("git server: %w", err)
	}
	if err := s.openHooks(); err != nil {
		return fmt.Errorf("git server: %w", errors.Join(err, os.RemoveAll(s.runDir)))
	}
	return nil
}

// openHooks writes the hooks and listens for what they ask.
func (s *Server) openHooks() error {
	var command []string
	for _, word := range s.HookCommand {
		command = append(command, "'"+strings.ReplaceAll(word, "'", `'\''`)+"'")
	}
	for _, hook := range []string{preReceive, procReceive} {
		script := fmt.Sprintf("#!/bin/sh\nexec %s %s\n", strings.Join(command, " "), hook)
		if err := os.WriteFile(filepath.Join(s.runDir, hook), []byte(script), 0o700); err != nil {
			return err
		}
	}
	if len(s.socket()) > maxSocket {
		return fmt.Errorf("the path of its socket, %s, is too long for the system: set TMPDIR to a shorter one", s.socket())
	}
	listener, err := net.Listen("unix", s.socket())
	if err != nil {
		return err
	}
	s.hooks = listener
	s.running.Go(s.acceptHooks)
	return nil
}

func (s *Server) socket() string { return filepath.Join(s.runDir, "hooks.sock") }

// Close ends what is under way and waits for it.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed || s.end == nil {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.end(errClosed)
	err := s.hooks.Close()
	s.running.Wait()
	return errors.Join(err, os.RemoveAll(s.runDir))
}

// enter counts what Close waits for; it reports false when the server is closed.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.life == nil {
		return false
	}
	s.running.Add(1)
	return true
}

// service is one of the two things that git asks for.
type service struct {
	name string // git-upload-pack or git-receive-pack
	verb string
}

var (
	fetching = service{"git-upload-pack", VerbFetch}
	pushing  = service{"git-receive-pack", VerbPush}
)

// target is what a request is about.
type target struct {
	namespace, app string
	service
	advertise bool // asks for the refs, before anything is sent
}

var served = regexp.MustCompile(`^/git/([^/]+)/([^/]+)\.git/(info/refs|git-upload-pack|git-receive-pack)$`)

// parseTarget reads a request's URL. A problem is told with its status.
func parseTarget(r *http.Request) (t target, status int, problem string) {
	match := served.FindStringSubmatch(r.URL.Path)
	if match == nil || !label.MatchString(match[1]) || !label.MatchString(match[2]) {
		return t, http.StatusNotFound, "there is no repository at this address: it has the form /git/NAMESPACE/APP.git"
	}
	t.namespace, t.app = match[1], match[2]
	wanted := match[3]
	method := http.MethodPost
	if wanted == "info/refs" {
		t.advertise = true
		method = http.MethodGet
		wanted = r.URL.Query().Get("service")
	}
	switch wanted {
	case fetching.name:
		t.service = fetching
	case pushing.name:
		t.service = pushing
	default:
		return t, http.StatusForbidden, "only git's smart HTTP protocol is served here: use git 1.6.6 or newer"
	}
	if r.Method != method {
		return t, http.StatusMethodNotAllowed, "this address takes " + method
	}
	if !t.advertise && r.Header.Get("Content-Type") != "application/x-"+t.name+"-request" {
		return t, http.StatusUnsupportedMediaType, "the request is not one of git's"
	}
	return t, 0, ""
}

// ServeHTTP answers one request of a git client.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		refuse(w, http.StatusServiceUnavailable, errClosed.Error())
		return
	}
	defer s.running.Done()
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.life, func() { cancel(errClosed) })()

	t, status, problem := parseTarget(r)
	if status != 0 {
		refuse(w, status, problem)
		return
	}
	user, ok := s.admit(ctx, w, r, t)
	if !ok {
		return
	}
	repository, err := s.Store.Open(t.namespace, t.app)
	if _, missing := errors.AsType[*NotFoundError](err); missing {
		refuse(w, http.StatusNotFound, fmt.Sprintf("there is no app %s in namespace %s, or it is not served from here: 'bight ship' registers it", t.app, t.namespace))
		return
	}
	if err != nil {
		s.Log.Error("repository can't be opened", "namespace", t.namespace, "app", t.app, "error", err)
		refuse(w, http.StatusInternalServerError, "the repository can't be opened: the controller's log says why")
		return
	}
	if t.service == pushing {
		if free, known := diskspace.Free(repository.Dir); known && free < s.MinFree {
			s.Log.Error("the volume is full: no pushes are taken", "left", bytesText(free), "namespace", t.namespace, "app", t.app)
			refuse(w, http.StatusInsufficientStorage, fmt.Sprintf("the controller's volume has %s left, so it takes no pushes: "+
				"make its PersistentVolumeClaim larger, or delete Apps that nobody needs", bytesText(free)))
			return
		}
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return
	}
	s.serve(ctx, cancel, w, r, &receiving{target: t, repository: repository, user: user})
}

// admit finds out who asks and whether they may. If not, it has answered.
func (s *Server) admit(ctx context.Context, w http.ResponseWriter, r *http.Request, t target) (User, bool) {
	user, err := s.Access.Authenticate(ctx, r)
	if errors.Is(err, ErrUnauthenticated) {
		w.Header().Set("WWW-Authenticate", `Basic realm="Bight", charset="UTF-8"`)
		refuse(w, http.StatusUnauthorized, "a Kubernetes token is needed as the password (any user name); 'bight ship' brings its own")
		return User{}, false
	}
	if errors.Is(err, bearer.ErrMany) {
		refuse(w, http.StatusServiceUnavailable, err.Error())
		return User{}, false
	}
	if err != nil {
		s.Log.Error("authentication failed", "error", err)
		refuse(w, http.StatusServiceUnavailable, "the cluster could not be asked who you are: try again, the controller's log says why")
		return User{}, false
	}
	err = s.Access.Authorize(ctx, user, t.namespace, t.app, t.verb)
	if denied, ok := errors.AsType[*DeniedError](err); ok {
		refuse(w, http.StatusForbidden, denied.Error())
		return User{}, false
	}
	if errors.Is(err, bearer.ErrMany) {
		refuse(w, http.StatusServiceUnavailable, err.Error())
		return User{}, false
	}
	if err != nil {
		s.Log.Error("authorization failed", "user", user.Name, "error", err)
		refuse(w, http.StatusServiceUnavailable, "the cluster could not be asked what you may do: try again, the controller's log says why")
		return User{}, false
	}
	return user, true
}

// refuse answers with a text that git shows to its user.
func refuse(w http.ResponseWriter, status int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}
