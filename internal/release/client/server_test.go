package client

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/kube"
)

// server is as much of an API server as this package asks: Releases that can be written
// and watched, and other objects as they are.
type server struct {
	t           *testing.T
	uninstalled bool
	// patched may change a Release after somebody has patched it, as a controller does.
	patched func(r *v1alpha1.Release)
	// refuse may refuse a request.
	refuse func(r *http.Request) *metav1.Status
	others map[string]any // by path

	mu       sync.Mutex
	version  int
	releases map[string]*v1alpha1.Release
	watches  map[chan metav1.WatchEvent]bool
	patches  []string
	posts    []post // of other objects
	cut      int    // watches that were cut
}

// post is an object that somebody has made.
type post struct{ path, body string }

// posted are the objects that were made at a path.
func (s *server) posted(path string) (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.posts {
		if p.path == path {
			all = append(all, p.body)
		}
	}
	return all
}

func newServer(t *testing.T, releases ...*v1alpha1.Release) (*server, *Client) {
	t.Helper()
	s := &server{t: t, releases: map[string]*v1alpha1.Release{}, watches: map[chan metav1.WatchEvent]bool{}, others: map[string]any{
		"/api/v1/namespaces/shop/pods": core.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}},
	}}
	for _, r := range releases {
		s.put("ADDED", r)
	}
	web := httptest.NewServer(s)
	t.Cleanup(func() { s.cutWatches(); web.Close() })
	c, err := New(kube.New(&rest.Config{Host: web.URL}, "test", "shop"))
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

// put stores a Release and tells those who watch.
func (s *server) put(event string, r *v1alpha1.Release) *v1alpha1.Release {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	r = r.DeepCopy()
	r.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion().String(), Kind: "Release"}
	r.ResourceVersion = strconv.Itoa(s.version)
	if s.releases[r.Name] = r; event == "DELETED" {
		delete(s.releases, r.Name)
	}
	raw, err := json.Marshal(r)
	if err != nil {
		s.t.Error(err)
	}
	e := metav1.WatchEvent{Type: event}
	e.Object.Raw = raw
	for w := range s.watches {
		w <- e
	}
	return r
}

// change changes the Release as it is now.
func (s *server) change(name string, do func(*v1alpha1.Release)) {
	r := s.get(name).DeepCopy()
	do(r)
	s.put("MODIFIED", r)
}

func (s *server) get(name string) *v1alpha1.Release {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.releases[name]
}

// cutWatches ends every watch.
func (s *server) cutWatches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watches {
		close(w)
		delete(s.watches, w)
		s.cut++
	}
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const of = "/apis/bight.dev/v1alpha1/namespaces/shop/releases"
	if s.refuse != nil {
		if no := s.refuse(r); no != nil {
			s.answer(w, int(no.Code), no)
			return
		}
	}
	name := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, of), "/")
	switch {
	case strings.HasSuffix(r.URL.Path, "/selfsubjectreviews"):
		s.answer(w, http.StatusCreated, map[string]any{
			"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "status": map[string]any{"userInfo": map[string]any{"username": "ada"}},
		})
	case !strings.HasPrefix(r.URL.Path, of) && r.Method == http.MethodPost:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			s.t.Error(err)
		}
		s.mu.Lock()
		s.posts = append(s.posts, post{r.URL.Path, string(body)})
		s.mu.Unlock()
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		w.WriteHeader(http.StatusCreated)
		if _, err := w.Write(body); err != nil {
			s.t.Error(err)
		}
	case !strings.HasPrefix(r.URL.Path, of):
		if o, ok := s.others[r.URL.Path]; ok {
			s.answer(w, http.StatusOK, o)
			return
		}
		s.answer(w, http.StatusNotFound, failure(http.StatusNotFound, metav1.StatusReasonNotFound, r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]))
	case s.uninstalled:
		http.NotFound(w, r)
	case r.URL.Query().Get("watch") == "true":
		s.watch(w, r)
	case r.Method == http.MethodGet:
		s.mu.Lock()
		list := v1alpha1.ReleaseList{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion().String(), Kind: "ReleaseList"}}
		list.ResourceVersion = strconv.Itoa(s.version)
		for _, x := range s.releases {
			list.Items = append(list.Items, *x)
		}
		s.mu.Unlock()
		s.answer(w, http.StatusOK, list)
	case r.Method == http.MethodPatch:
		s.patch(w, r, name)
	case r.Method == http.MethodPost:
		made := &v1alpha1.Release{}
		if err := json.NewDecoder(r.Body).Decode(made); err != nil {
			s.t.Error(err)
		}
		s.mu.Lock()
		made.UID = "made"
		s.mu.Unlock()
		s.answer(w, http.StatusCreated, s.put("ADDED", made))
	case r.Method == http.MethodDelete:
		s.put("DELETED", s.get(name))
		s.answer(w, http.StatusOK, metav1.Status{Status: metav1.StatusSuccess})
	}
}

func (s *server) patch(w http.ResponseWriter, r *http.Request, name string) {
	var patch map[string]any
	if err := json.NewDecoder(r.Body).Decode(&patch); err != nil {
		s.t.Error(err)
	}
	now := s.get(name)
	version, _, _ := unstructured.NestedString(patch, "metadata", "resourceVersion")
	if r.Header.Get("Content-Type") != "application/merge-patch+json" || version != now.ResourceVersion {
		s.answer(w, http.StatusConflict, failure(http.StatusConflict, metav1.StatusReasonConflict, name))
		return
	}
	orders, _, _ := unstructured.NestedMap(patch, "spec", "orders")
	text, err := json.Marshal(orders)
	if err != nil {
		s.t.Error(err)
	}
	s.mu.Lock()
	s.patches = append(s.patches, string(text))
	s.mu.Unlock()
	next := now.DeepCopy()
	if ask, has, _ := unstructured.NestedFieldNoCopy(patch, "spec", "ask"); has && ask == nil {
		next.Spec.Ask = nil
	}
	fields := fieldsOf(s.t, &next.Spec.Orders)
	for k, v := range orders {
		if fields[k] = v; v == nil {
			delete(fields, k)
		}
	}
	text, err = json.Marshal(fields)
	if err != nil {
		s.t.Error(err)
	}
	next.Spec.Orders = v1alpha1.ReleaseOrders{}
	if err := json.Unmarshal(text, &next.Spec.Orders); err != nil {
		s.t.Error(err)
	}
	next.Generation++
	s.answer(w, http.StatusOK, s.put("MODIFIED", next))
	if s.patched != nil {
		s.change(name, s.patched)
	}
}

// watch sends what comes after a version; of what came before only the newest.
func (s *server) watch(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name=")
	since, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	events := make(chan metav1.WatchEvent, 100)
	s.mu.Lock()
	if x := s.releases[name]; x == nil {
		raw, _ := json.Marshal(v1alpha1.Release{
			TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion().String(), Kind: "Release"},
			ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: strconv.Itoa(s.version)},
		})
		e := metav1.WatchEvent{Type: "DELETED"}
		e.Object.Raw = raw
		events <- e
	} else if v, _ := strconv.Atoi(x.ResourceVersion); v > since {
		raw, _ := json.Marshal(x)
		e := metav1.WatchEvent{Type: "MODIFIED"}
		e.Object.Raw = raw
		events <- e
	}
	s.watches[events] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watches, events)
		s.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	for {
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			return
		case e, ok := <-events:
			if !ok {
				return
			}
			if err := json.NewEncoder(w).Encode(e); err != nil {
				return
			}
		}
	}
}

func (s *server) answer(w http.ResponseWriter, code int, o any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(o); err != nil {
		s.t.Log(err) // the client has gone
	}
}

func failure(code int32, reason metav1.StatusReason, name string) *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: code, Reason: reason,
		Message: fmt.Sprintf("%s: %s", name, reason), Details: &metav1.StatusDetails{Name: name, Kind: "releases"},
	}
}
