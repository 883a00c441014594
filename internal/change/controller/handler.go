package controller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/repo"
	"github.com/bightdev/bight/internal/change/repo/access"
	"github.com/bightdev/bight/internal/stats"
)

func (c *Controller) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(change.GitPath, c.git)
	mux.Handle("GET "+change.WorkPath, c.hub)
	mux.HandleFunc("GET "+change.FilesPath+"/{namespace}/{change}/{file}", c.serveFile)
	mux.HandleFunc("POST "+change.ResultsPath+"/{namespace}/{app}", c.serveResults)
	mux.Handle("POST "+change.HooksPath+"/{namespace}/{app}", c.webhooks())
	if c.Ledger != nil {
		mux.HandleFunc("GET "+stats.Path, c.serveStats)
	}
	for pattern, h := range c.Paths {
		mux.Handle(pattern, h)
	}
	for pattern, g := range c.Guarded {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { c.guard(w, r, g) })
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return mux
}

// may tells whether who sends a request may do something with an app: nil, or why
// not, and the status that says so.
func (c *Controller) may(r *http.Request, namespace, app, verb string) (int, error) {
	user, err := c.git.Access.Authenticate(r.Context(), r)
	switch {
	case errors.Is(err, repo.ErrUnauthenticated):
		return http.StatusUnauthorized, err
	case err != nil:
		return http.StatusServiceUnavailable, err
	}
	err = c.git.Access.Authorize(r.Context(), user, namespace, app, verb)
	var denied *repo.DeniedError
	switch {
	case errors.As(err, &denied):
		return http.StatusForbidden, err
	case err != nil:
		return http.StatusServiceUnavailable, err
	}
	return http.StatusOK, nil
}

// Guarded is something about one object of ours, whose namespace and name are the values
// {namespace} and {name} of the path: it is served to those who may get its subresource.
type Guarded struct {
	Resource, Subresource string
	Handler               http.Handler
}

func (c *Controller) guard(w http.ResponseWriter, r *http.Request, g Guarded) {
	namespace, name := r.PathValue("namespace"), r.PathValue("name")
	user, err := c.git.Access.Authenticate(r.Context(), r)
	if err == nil {
		err = c.tokens.MayRead(r.Context(), user, g.Resource, g.Subresource, namespace, name)
	}
	switch {
	case errors.Is(err, repo.ErrUnauthenticated):
		http.Error(w, err.Error(), http.StatusUnauthorized)
	case errors.Is(err, access.ErrDenied):
		http.Error(w, fmt.Sprintf("%s may not get %s/%s of %s in namespace %s: the right get on %[2]s/%[3]s of bight.dev is missing",
			user.Name, g.Resource, g.Subresource, name, namespace), http.StatusForbidden)
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	default:
		g.Handler.ServeHTTP(w, r)
	}
}

// mayWork tells whether somebody may be a worker for an app, "" for all.
func (c *Controller) mayWork(r *http.Request, app string) error {
	namespace, name, _ := strings.Cut(app, "/")
	_, err := c.mayWorkFor(r, namespace, name)
	return err
}

// mayWorkFor is may for workers: those who may push are such, and those who may do
// nothing else.
func (c *Controller) mayWorkFor(r *http.Request, namespace, name string) (int, error) {
	status, err := c.may(r, namespace, name, repo.VerbPush)
	if status != http.StatusForbidden {
		return status, err
	}
	if only, workErr := c.may(r, namespace, name, v1alpha1.VerbWork); workErr == nil {
		return only, nil
	}
	return status, err
}

// serveFile serves what a change has printed or left.
func (c *Controller) serveFile(w http.ResponseWriter, r *http.Request) {
	key := client.ObjectKey{Namespace: r.PathValue("namespace"), Name: r.PathValue("change")}
	m := &v1alpha1.Change{}
	err := c.client.Get(r.Context(), key, m)
	app := m.Spec.App // "" tells nobody whether there is such a change
	if status, err := c.may(r, key.Namespace, app, repo.VerbFetch); err != nil {
		http.Error(w, err.Error(), status)
		return
	}
	if err != nil {
		http.Error(w, "no such change", http.StatusNotFound)
		return
	}
	p := key.Namespace + "/" + key.Name + "/" + r.PathValue("file")
	c.files.serve(w, r, p, func(ctx context.Context) bool { return c.logEnded(ctx, key, p) })
}

// logEnded reports whether the step that writes a log has ended.
func (c *Controller) logEnded(ctx context.Context, key client.ObjectKey, p string) bool {
	m := &v1alpha1.Change{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	if err := c.client.Get(ctx, key, m); err != nil {
		return true
	}
	m = c.newest.of(m)
	all := m.Status.Steps
	for _, r := range m.Status.Runs {
		all = append(all[:len(all):len(all)], r.Steps...)
	}
	for _, s := range all {
		if s.Log == p && s.State == v1alpha1.StepRunning {
			return false
		}
	}
	return change.Ended(m) || len(all) > 0
}
