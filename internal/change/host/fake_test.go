package host

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const (
	token  = "t0k3n"
	home   = "acme/shop"
	commit = "1111111111111111111111111111111111111111"
)

// stand is a comment on a fake host.
type stand struct {
	id       int64
	thread   int64 // the review or discussion that it is in
	path     string
	line     int
	body     string
	replies  int
	resolved bool
}

// fake is a host as its API is documented, with one repository and one request, number 7, whose difference has
// the lines 1 to 10 of main.go.
type fake struct {
	*httptest.Server
	t testing.TB

	mu       sync.Mutex
	next     int64
	stands   []*stand
	statuses map[string]map[string]any // by context
	requests []Request
	calls    []string // METHOD path
	before   func(w http.ResponseWriter, r *http.Request) bool
}

// kinds are the hosts that the conformance suite runs on.
var kinds = map[string]struct {
	serve func(*fake, *http.ServeMux)
	open  func(Connection) Host
	auth  [2]string
}{
	"github": {(*fake).serveGitHub, func(c Connection) Host { return &GitHub{c} }, [2]string{"Authorization", "Bearer " + token}},
	"gitlab": {(*fake).serveGitLab, func(c Connection) Host { return &GitLab{c} }, [2]string{"Private-Token", token}},
	"gitea":  {(*fake).serveGitea, func(c Connection) Host { return &Gitea{c} }, [2]string{"Authorization", "token " + token}},
}

// each runs a test on every kind of host.
func each(t *testing.T, test func(t *testing.T, kind string, f *fake, h Host, c *Connection)) {
	for kind, k := range kinds {
		t.Run(kind, func(t *testing.T) {
			f := &fake{t: t, next: 100, statuses: map[string]map[string]any{}}
			mux := http.NewServeMux()
			k.serve(f, mux)
			f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.calls = append(f.calls, r.Method+" "+r.URL.RequestURI())
				if r.Header.Get(k.auth[0]) != k.auth[1] {
					respond(w, 401, map[string]any{"message": "401 Unauthorized: " + r.Header.Get(k.auth[0])})
					return
				}
				if f.before != nil && f.before(w, r) {
					return
				}
				mux.ServeHTTP(w, r)
			}))
			t.Cleanup(f.Close)
			c := Connection{URL: f.URL + "/", Token: token, Repository: home}
			test(t, kind, f, k.open(c), &c)
		})
	}
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if body != nil {
		_ = json.NewEncoder(w).Encode(body)
	}
}

func (f *fake) read(r *http.Request) map[string]any {
	fields := map[string]any{}
	if err := json.NewDecoder(r.Body).Decode(&fields); err != nil || r.Header.Get("Content-Type") != "application/json" {
		f.t.Errorf("%s %s: body is no JSON: %v", r.Method, r.URL, err)
	}
	return fields
}

// page answers with one page of a list and, in the manner of all three, a Link to the next.
func (f *fake) page(w http.ResponseWriter, r *http.Request, sizeParam string, all []any) {
	size, err := strconv.Atoi(r.URL.Query().Get(sizeParam))
	if err != nil {
		size = 30
	}
	number, err := strconv.Atoi(r.URL.Query().Get("page"))
	if err != nil {
		number = 1
	}
	begin, end := min((number-1)*size, len(all)), min(number*size, len(all))
	if end < len(all) {
		q := r.URL.Query()
		q.Set("page", strconv.Itoa(number+1))
		u := url.URL{Scheme: "https", Host: "public.example.org", Path: r.URL.Path, RawQuery: q.Encode()}
		w.Header().Set("Link", fmt.Sprintf(`<%s&last>; rel="last", <%s>; rel="next"`, u.String(), u.String()))
	}
	respond(w, 200, append([]any{}, all[begin:end]...))
}

func (f *fake) add(s stand) *stand {
	f.next++
	s.id = f.next
	if s.thread == 0 {
		f.next++
		s.thread = f.next
	}
	f.stands = append(f.stands, &s)
	return &s
}

func (f *fake) find(id string) *stand {
	for _, s := range f.stands {
		if strconv.FormatInt(s.id, 10) == id {
			return s
		}
	}
	return nil
}

func (f *fake) remove(w http.ResponseWriter, gone func(*stand) bool) {
	before := len(f.stands)
	f.stands = slices.DeleteFunc(f.stands, gone)
	if len(f.stands) == before {
		respond(w, 404, map[string]any{"message": "Not Found"})
		return
	}
	w.WriteHeader(204)
}

// change is an edit of a comment.
func (f *fake) change(w http.ResponseWriter, r *http.Request) {
	s := f.find(r.PathValue("id"))
	if s == nil {
		respond(w, 404, map[string]any{"message": "Not Found"})
		return
	}
	s.body = strings.ReplaceAll(f.read(r)["body"].(string), "\n", "\r\n") // some hosts keep it so
	respond(w, 200, map[string]any{"id": s.id, "body": s.body})
}

func (f *fake) drop(w http.ResponseWriter, r *http.Request) {
	f.remove(w, func(s *stand) bool { return strconv.FormatInt(s.id, 10) == r.PathValue("id") })
}

// comments lists those that are wanted with GitHub's fields.
func (f *fake) comments(wanted func(*stand) bool) []any {
	all := []any{}
	for _, s := range f.stands {
		if !wanted(s) {
			continue
		}
		all = append(all, map[string]any{"id": s.id, "body": s.body, "path": s.path, "line": s.line})
		for i := range s.replies {
			all = append(all, map[string]any{"id": s.id*1000 + int64(i), "body": "> " + s.body + "\n\nI see", "in_reply_to_id": s.id})
		}
	}
	return all
}

func onLine(s *stand) bool  { return s.line > 0 }
func onWhole(s *stand) bool { return s.line == 0 }
func inDiff(path any, line any) bool {
	number, _ := line.(float64)
	return path == "main.go" && number >= 1 && number <= 10
}

func (f *fake) pulls() []any {
	all := []any{}
	for _, q := range f.requests {
		var from any = map[string]any{"full_name": home}
		if q.Fork {
			from = map[string]any{"full_name": q.Author + "/shop"}
		}
		if q.Author == "ghost" {
			from = nil
		}
		all = append(all, map[string]any{"number": q.Number, "title": q.Title, "html_url": q.URL, "user": map[string]any{"login": q.Author},
			"head": map[string]any{"ref": q.HeadBranch, "sha": q.HeadCommit, "repo": from}, "base": map[string]any{"ref": q.BaseBranch, "repo": map[string]any{"full_name": home}}})
	}
	return all
}

func (f *fake) setStatus(w http.ResponseWriter, r *http.Request, name string) {
	fields := f.read(r)
	if r.PathValue("sha") != commit {
		respond(w, 422, map[string]any{"message": "No commit found for SHA: " + r.PathValue("sha")})
		return
	}
	f.statuses[fields[name].(string)] = fields
	respond(w, 201, fields)
}

func (f *fake) serveGitHub(mux *http.ServeMux) {
	const repo = "/repos/acme/shop"
	mux.HandleFunc("POST "+repo+"/statuses/{sha}", func(w http.ResponseWriter, r *http.Request) { f.setStatus(w, r, "context") })
	mux.HandleFunc("GET "+repo+"/pulls", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("state") != "open" {
			f.t.Error("closed requests are asked for")
		}
		f.page(w, r, "per_page", f.pulls())
	})
	mux.HandleFunc("GET "+repo+"/issues/7/comments", func(w http.ResponseWriter, r *http.Request) { f.page(w, r, "per_page", f.comments(onWhole)) })
	mux.HandleFunc("GET "+repo+"/pulls/7/comments", func(w http.ResponseWriter, r *http.Request) { f.page(w, r, "per_page", f.comments(onLine)) })
	mux.HandleFunc("POST "+repo+"/issues/7/comments", func(w http.ResponseWriter, r *http.Request) {
		respond(w, 201, map[string]any{"id": f.add(stand{body: f.read(r)["body"].(string)}).id})
	})
	mux.HandleFunc("POST "+repo+"/pulls/7/comments", func(w http.ResponseWriter, r *http.Request) {
		fields := f.read(r)
		if !inDiff(fields["path"], fields["line"]) || fields["side"] != "RIGHT" || fields["commit_id"] != commit {
			respond(w, 422, map[string]any{"message": "Validation Failed", "errors": []any{map[string]any{"resource": "PullRequestReviewComment", "field": "line"}}})
			return
		}
		s := f.add(stand{path: fields["path"].(string), line: int(fields["line"].(float64)), body: fields["body"].(string)})
		respond(w, 201, map[string]any{"id": s.id})
	})
	for _, kind := range []string{"issues", "pulls"} {
		mux.HandleFunc("PATCH "+repo+"/"+kind+"/comments/{id}", f.change)
		mux.HandleFunc("DELETE "+repo+"/"+kind+"/comments/{id}", f.drop)
	}
}

func (f *fake) serveGitea(mux *http.ServeMux) {
	const repo = "/repos/acme/shop"
	mux.HandleFunc("POST "+repo+"/statuses/{sha}", func(w http.ResponseWriter, r *http.Request) { f.setStatus(w, r, "context") })
	mux.HandleFunc("GET "+repo+"/pulls", func(w http.ResponseWriter, r *http.Request) { f.page(w, r, "limit", f.pulls()) })
	mux.HandleFunc("GET "+repo+"/issues/7/comments", func(w http.ResponseWriter, _ *http.Request) { respond(w, 200, f.comments(onWhole)) })
	mux.HandleFunc("POST "+repo+"/issues/7/comments", func(w http.ResponseWriter, r *http.Request) {
		respond(w, 201, map[string]any{"id": f.add(stand{body: f.read(r)["body"].(string)}).id})
	})
	mux.HandleFunc("GET "+repo+"/pulls/7/reviews", func(w http.ResponseWriter, r *http.Request) {
		all := []any{map[string]any{"id": 1, "comments_count": 0, "state": "APPROVED"}}
		for _, s := range f.stands {
			if onLine(s) {
				all = append(all, map[string]any{"id": s.thread, "comments_count": 1 + s.replies, "state": "COMMENT"})
			}
		}
		f.page(w, r, "limit", all)
	})
	mux.HandleFunc("GET "+repo+"/pulls/7/reviews/{thread}/comments", func(w http.ResponseWriter, r *http.Request) {
		respond(w, 200, f.comments(func(s *stand) bool { return strconv.FormatInt(s.thread, 10) == r.PathValue("thread") }))
	})
	mux.HandleFunc("POST "+repo+"/pulls/7/reviews", func(w http.ResponseWriter, r *http.Request) {
		fields := f.read(r)
		lines := fields["comments"].([]any)
		line := lines[0].(map[string]any)
		if len(lines) != 1 || fields["event"] != "COMMENT" || fields["commit_id"] != commit || !inDiff(line["path"], line["new_position"]) {
			respond(w, 422, map[string]any{"message": "line is not part of the diff", "url": "https://git.example.org/api/swagger"})
			return
		}
		s := f.add(stand{path: line["path"].(string), line: int(line["new_position"].(float64)), body: line["body"].(string)})
		respond(w, 200, map[string]any{"id": s.thread})
	})
	mux.HandleFunc("DELETE "+repo+"/pulls/7/reviews/{thread}", func(w http.ResponseWriter, r *http.Request) {
		f.remove(w, func(s *stand) bool { return strconv.FormatInt(s.thread, 10) == r.PathValue("thread") })
	})
	mux.HandleFunc("PATCH "+repo+"/issues/comments/{id}", f.change)
	mux.HandleFunc("DELETE "+repo+"/issues/comments/{id}", f.drop)
}

func (f *fake) serveGitLab(mux *http.ServeMux) {
	const project = "/projects/{project}"
	handle := func(pattern string, h http.HandlerFunc) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" "+project+path, func(w http.ResponseWriter, r *http.Request) {
			if r.PathValue("project") != home {
				respond(w, 404, map[string]any{"message": "404 Project Not Found"})
				return
			}
			h(w, r)
		})
	}
	handle("POST /statuses/{sha}", func(w http.ResponseWriter, r *http.Request) {
		f.setStatus(w, r, "name")
	})
	handle("GET /merge_requests", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("state") != "opened" {
			f.t.Error("closed requests are asked for")
		}
		all := []any{}
		for _, q := range f.requests {
			var from any = 1
			if q.Fork {
				from = 2
			}
			if q.Author == "ghost" {
				from = nil
			}
			all = append(all, map[string]any{"id": 5000 + q.Number, "iid": q.Number, "title": q.Title, "sha": q.HeadCommit, "web_url": q.URL, "source_branch": q.HeadBranch,
				"target_branch": q.BaseBranch, "source_project_id": from, "target_project_id": 1, "author": map[string]any{"username": q.Author}})
		}
		f.page(w, r, "per_page", all)
	})
	handle("GET /merge_requests/7", func(w http.ResponseWriter, _ *http.Request) {
		respond(w, 200, map[string]any{"iid": 7, "diff_refs": map[string]any{"base_sha": "b", "start_sha": "s", "head_sha": commit}})
	})
	handle("GET /merge_requests/7/discussions", func(w http.ResponseWriter, r *http.Request) {
		all := []any{map[string]any{"id": "system", "individual_note": true, "notes": []any{map[string]any{"id": 1, "type": nil, "body": "added 1 commit", "system": true}}}}
		for _, s := range f.stands {
			first := map[string]any{"id": s.id, "type": nil, "body": s.body, "resolvable": false}
			if onLine(s) {
				first = map[string]any{"id": s.id, "type": "DiffNote", "body": s.body, "resolvable": true, "resolved": s.resolved, "position": map[string]any{"new_path": s.path, "new_line": s.line}}
			}
			notes := []any{first}
			for i := range s.replies {
				notes = append(notes, map[string]any{"id": s.id*1000 + int64(i), "type": first["type"], "body": "I see"})
			}
			all = append(all, map[string]any{"id": "d" + strconv.FormatInt(s.thread, 10), "notes": notes})
		}
		f.page(w, r, "per_page", all)
	})
	handle("POST /merge_requests/7/notes", func(w http.ResponseWriter, r *http.Request) {
		respond(w, 201, map[string]any{"id": f.add(stand{body: f.read(r)["body"].(string)}).id})
	})
	handle("POST /merge_requests/7/discussions", func(w http.ResponseWriter, r *http.Request) {
		fields := f.read(r)
		at := fields["position"].(map[string]any)
		if at["position_type"] != "text" || at["base_sha"] != "b" || at["start_sha"] != "s" || at["head_sha"] != commit || at["old_path"] == nil || !inDiff(at["new_path"], at["new_line"]) {
			respond(w, 400, map[string]any{"message": "400 Bad request - Note {:line_code=>[\"can't be blank\", \"must be a valid line code\"]}"})
			return
		}
		s := f.add(stand{path: at["new_path"].(string), line: int(at["new_line"].(float64)), body: fields["body"].(string)})
		respond(w, 201, map[string]any{"id": "d" + strconv.FormatInt(s.thread, 10)})
	})
	handle("PUT /merge_requests/7/notes/{id}", f.change)
	handle("DELETE /merge_requests/7/notes/{id}", f.drop)
	handle("PUT /merge_requests/7/discussions/{thread}", func(w http.ResponseWriter, r *http.Request) {
		for _, s := range f.stands {
			if "d"+strconv.FormatInt(s.thread, 10) == r.PathValue("thread") {
				s.resolved = r.URL.Query().Get("resolved") == "true"
				respond(w, 200, map[string]any{"id": r.PathValue("thread")})
				return
			}
		}
		respond(w, 404, map[string]any{"message": "404 Discussion Not Found"})
	})
}
