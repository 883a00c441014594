//go:build e2e

package e2e

import (
	stdcontext "context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/kube"
)

// forge is a git host in this process, as Gitea's API is documented, with one
// repository: acme/shop. Pods reach it through a service of the cluster.
type forge struct {
	*testing.T
	url string // of the repository, as pods know it
	dir string // the repository

	mu       sync.Mutex
	token    string // that is accepted
	away     bool
	asked    int                          // by git
	statuses map[string]map[string]string // by commit and context: state
	pulls    []map[string]any
	comments map[int64]*forgeComment
	next     int64
}

// forgeComment is a comment on a request.
type forgeComment struct {
	Request int
	Path    string // "" for the whole
	Line    int
	Body    string
	Review  int64
}

// relay is a service that leads its connections to whoever has dialed its other port.
const relay = `package main

import (
	"io"
	"log"
	"net"
	"net/http"
)

func main() {
	idle := make(chan net.Conn, 64)
	go listen(":9000", func(c net.Conn) { idle <- c })
	go listen(":9001", func(c net.Conn) {
		out := <-idle
		if _, err := out.Write([]byte{'x'}); err != nil {
			out.Close()
			c.Close()
			return
		}
		go func() { io.Copy(out, c); out.Close(); c.Close() }()
		io.Copy(c, out)
		out.Close()
		c.Close()
	})
	http.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {})
	log.Fatal(http.ListenAndServe(":8080", nil))
}

func listen(address string, do func(net.Conn)) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go do(c)
	}
}
`

// newForge makes a host that pods of the cluster reach.
func newForge(t *testing.T, l *lab) *forge {
	t.Helper()
	f := &forge{T: t, dir: filepath.Join(t.TempDir(), "acme", "shop.git"), token: "t0k3n-of-the-host", statuses: map[string]map[string]string{}, comments: map[int64]*forgeComment{}, next: 100}
	f.git("init", "--quiet", "--bare", "--initial-branch", "main", f.dir)
	f.git("-C", f.dir, "config", "http.receivepack", "true")
	pod := l.relayed()
	f.url = "http://" + pod.ip + ":9001/acme/shop.git"
	listener := newRelayed(t, pod.namespace, pod.name)
	server := &http.Server{Handler: f}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-ended })
	return f
}

type relayPod struct{ namespace, name, ip string }

// relayed deploys the relay and returns its pod.
func (l *lab) relayed() relayPod {
	l.Helper()
	host := &lab{T: l.T, dir: l.TempDir(), namespace: l.namespace + "-host"}
	host.write("go.mod", "module example.com/relay\n\ngo 1.26\n")
	host.write("relay/main.go", relay)
	host.vacate(host.namespace)
	l.Cleanup(host.remove)
	host.once()
	var found relayPod
	l.eventually("the relay runs", func() error {
		pods, err := client.CoreV1().Pods(host.namespace).List(context(), meta.ListOptions{})
		if err != nil {
			return err
		}
		for _, p := range pods.Items {
			if p.Status.PodIP != "" && p.DeletionTimestamp == nil {
				found = relayPod{p.Namespace, p.Name, p.Status.PodIP}
				return nil
			}
		}
		return errors.New("it has no pod")
	})
	return found
}

// relayedListener accepts what the relay leads here.
type relayedListener struct {
	conns chan net.Conn
	done  chan struct{}
	close func()
}

// newRelayed keeps connections to the relay ready.
func newRelayed(t *testing.T, namespace, pod string) *relayedListener {
	cluster := kube.New(config, "", "")
	l := &relayedListener{conns: make(chan net.Conn), done: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.done) })
	var tasks sync.WaitGroup
	for range 12 {
		tasks.Go(func() {
			for {
				conn, err := cluster.DialPod(context(), namespace, pod, 9000)
				if err == nil {
					err = l.offer(conn)
				}
				if err == nil {
					continue
				}
				select {
				case <-l.done:
					return
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
	t.Cleanup(func() { l.close(); tasks.Wait() })
	return l
}

// offer waits until a connection leads somewhere, and hands it on.
func (l *relayedListener) offer(conn net.Conn) error {
	stop := make(chan struct{})
	var waits sync.WaitGroup
	waits.Go(func() {
		select {
		case <-l.done:
			_ = conn.Close()
		case <-stop:
		}
	})
	_, err := io.ReadFull(conn, make([]byte, 1))
	close(stop)
	waits.Wait()
	if err == nil {
		select {
		case l.conns <- conn:
			return nil
		case <-l.done:
			err = net.ErrClosed
		}
	}
	_ = conn.Close()
	return err
}

func (l *relayedListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *relayedListener) Close() error   { l.close(); return nil }
func (l *relayedListener) Addr() net.Addr { return &net.TCPAddr{} }

func (f *forge) git(args ...string) string {
	f.Helper()
	cmd := exec.Command("git", args...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		f.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// head is where the host has a branch.
func (f *forge) head(branch string) string {
	return f.git("-C", f.dir, "rev-parse", "refs/heads/"+branch)
}

// set changes something of the host.
func (f *forge) set(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

// open opens a request.
func (f *forge) open(number int, branch, commit string, fork bool) {
	from := "acme/shop"
	if fork {
		from = "mallory/shop"
		f.git("-C", f.dir, "update-ref", fmt.Sprintf("refs/pull/%d/head", number), commit)
	}
	f.set(func() {
		f.pulls = slices.DeleteFunc(f.pulls, func(p map[string]any) bool { return p["number"] == number })
		f.pulls = append(f.pulls, map[string]any{
			"number": number, "title": "Request", "user": map[string]any{"login": "grace"},
			"head": map[string]any{"ref": branch, "sha": commit, "repo": map[string]any{"full_name": from}},
			"base": map[string]any{"ref": "main", "repo": map[string]any{"full_name": "acme/shop"}},
		})
	})
}

// shown are the states of the statuses of a commit.
func (f *forge) shown(commit string) map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]string{}
	for k, v := range f.statuses[commit] {
		out[k] = v
	}
	return out
}

// said are the comments on a request: those on lines by their place.
func (f *forge) said(request int) map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]string{}
	for _, c := range f.comments {
		if c.Request == request {
			place := "all"
			if c.Path != "" {
				place = c.Path + ":" + strconv.Itoa(c.Line)
			}
			out[place] += c.Body
		}
	}
	return out
}

// ServeHTTP is git and the API.
func (f *forge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	away, token := f.away, f.token
	f.mu.Unlock()
	_, password, _ := r.BasicAuth()
	switch {
	case away:
		http.Error(w, "the host is down", http.StatusBadGateway)
	case strings.HasPrefix(r.URL.Path, "/api/v1/"):
		if r.Header.Get("Authorization") != "token "+token {
			respond(w, http.StatusUnauthorized, map[string]any{"message": "token is required"})
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.api().ServeHTTP(w, r)
	case password != token:
		w.Header().Set("WWW-Authenticate", `Basic realm="forge"`)
		http.Error(w, "who are you?", http.StatusUnauthorized)
	default:
		f.set(func() { f.asked++ })
		(&cgi.Handler{
			Path: filepath.Join(strings.TrimSpace(f.git("--exec-path")), "git-http-backend"),
			Env:  []string{"GIT_PROJECT_ROOT=" + filepath.Dir(filepath.Dir(f.dir)), "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=bight", "GIT_CONFIG_GLOBAL=/dev/null"},
		}).ServeHTTP(w, r)
	}
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// api is as much of Gitea's as Bight speaks.
func (f *forge) api() http.Handler {
	const repo = "/api/v1/repos/acme/shop"
	read := func(r *http.Request) map[string]any {
		fields := map[string]any{}
		_ = json.NewDecoder(r.Body).Decode(&fields)
		return fields
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+repo+"/statuses/{sha}", func(w http.ResponseWriter, r *http.Request) {
		fields, sha := read(r), r.PathValue("sha")
		if f.statuses[sha] == nil {
			f.statuses[sha] = map[string]string{}
		}
		f.statuses[sha][fields["context"].(string)] = fields["state"].(string)
		respond(w, http.StatusCreated, fields)
	})
	mux.HandleFunc("GET "+repo+"/pulls", func(w http.ResponseWriter, _ *http.Request) {
		respond(w, http.StatusOK, append([]map[string]any{}, f.pulls...))
	})
	list := func(w http.ResponseWriter, r *http.Request, wanted func(*forgeComment) bool) {
		all := []any{}
		for id, c := range f.comments {
			if strconv.Itoa(c.Request) == r.PathValue("number") && wanted(c) {
				all = append(all, map[string]any{"id": id, "body": c.Body})
			}
		}
		respond(w, http.StatusOK, all)
	}
	mux.HandleFunc("GET "+repo+"/issues/{number}/comments", func(w http.ResponseWriter, r *http.Request) {
		list(w, r, func(c *forgeComment) bool { return c.Path == "" })
	})
	mux.HandleFunc("GET "+repo+"/pulls/{number}/reviews", func(w http.ResponseWriter, r *http.Request) {
		all := []any{}
		for _, c := range f.comments {
			if strconv.Itoa(c.Request) == r.PathValue("number") && c.Path != "" {
				all = append(all, map[string]any{"id": c.Review, "comments_count": 1})
			}
		}
		respond(w, http.StatusOK, all)
	})
	mux.HandleFunc("GET "+repo+"/pulls/{number}/reviews/{review}/comments", func(w http.ResponseWriter, r *http.Request) {
		list(w, r, func(c *forgeComment) bool { return strconv.FormatInt(c.Review, 10) == r.PathValue("review") })
	})
	add := func(r *http.Request, c forgeComment) int64 {
		f.next += 2
		c.Request, _ = strconv.Atoi(r.PathValue("number"))
		c.Review = f.next + 1
		f.comments[f.next] = &c
		return f.next
	}
	mux.HandleFunc("POST "+repo+"/issues/{number}/comments", func(w http.ResponseWriter, r *http.Request) {
		respond(w, http.StatusCreated, map[string]any{"id": add(r, forgeComment{Body: read(r)["body"].(string)})})
	})
	mux.HandleFunc("POST "+repo+"/pulls/{number}/reviews", func(w http.ResponseWriter, r *http.Request) {
		line := read(r)["comments"].([]any)[0].(map[string]any)
		respond(w, http.StatusOK, map[string]any{"id": add(r, forgeComment{Path: line["path"].(string), Line: int(line["new_position"].(float64)), Body: line["body"].(string)}) + 1})
	})
	mux.HandleFunc("PATCH "+repo+"/issues/comments/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
		f.comments[id].Body = read(r)["body"].(string)
		respond(w, http.StatusOK, map[string]any{"id": id})
	})
	mux.HandleFunc("DELETE "+repo+"/pulls/{number}/reviews/{review}", func(w http.ResponseWriter, r *http.Request) {
		for id, c := range f.comments {
			if strconv.FormatInt(c.Review, 10) == r.PathValue("review") {
				delete(f.comments, id)
			}
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

// report sends a webhook to the controller and returns what it answers.
func (d *dock) report(app, secret, delivery string, body []byte) (status int, text string) {
	d.Helper()
	cluster := kube.New(config, "", "")
	leader := d.leader()
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx stdcontext.Context, _, _ string) (net.Conn, error) {
		return cluster.DialPod(ctx, "bight-system", leader, 8080)
	}}}
	r, err := http.NewRequest(http.MethodPost, "http://controller/hooks/"+d.namespace+"/"+app, strings.NewReader(string(body)))
	if err != nil {
		d.Fatal(err)
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	r.Header.Set("X-Gitea-Signature", hex.EncodeToString(mac.Sum(nil)))
	r.Header.Set("X-Gitea-Event", "push")
	r.Header.Set("X-Gitea-Delivery", delivery)
	answer, err := web.Do(r)
	if err != nil {
		d.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		d.Fatal(err)
	}
	return answer.StatusCode, string(b)
}
