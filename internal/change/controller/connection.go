package controller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change/host"
	"github.com/bightdev/bight/internal/change/repo"
)

// connection is how an App's repository on an outside host is reached.
type connection struct {
	remote repo.Remote
	// host is what is spoken besides git, nil for nothing.
	host host.Host
	// requests is where git finds the head of a request, with %d for its number.
	requests string
	// webhook is the secret that the host signs with.
	webhook string
	// where is the URL without credentials, for people.
	where   string
	secrets []string // never to be told
}

// sourceError says what is wrong with a repository on an outside host, or the way to
// it.
type sourceError struct {
	Reason string // of a condition
	Text   string
}

func (e *sourceError) Error() string { return e.Text }

// hostError is what the host, or the way to it, has answered.
type hostError struct{ error }

func (e *hostError) Unwrap() error { return e.error }

// connection reads what it takes to reach an App's repository.
func (c *Controller) connection(ctx context.Context, a *v1alpha1.App) (connection, error) {
	name := a.Spec.Source.Secret
	if name == "" {
		return connect(a.Spec.Source, nil)
	}
	s := &corev1.Secret{}
	err := c.live.Get(ctx, client.ObjectKey{Namespace: a.Namespace, Name: name}, s)
	if apierrors.IsNotFound(err) {
		return connection{}, &sourceError{"NoSecret", fmt.Sprintf("secret %s of spec.source is not in namespace %s: make it with the keys token (or username and password) and webhook", name, a.Namespace)}
	}
	if err != nil {
		return connection{}, fmt.Errorf("read secret %s of spec.source: %w", name, err)
	}
	return connect(a.Spec.Source, s.Data)
}

// connect makes a connection of what an App says, and of its Secret.
func connect(s *v1alpha1.Source, secret map[string][]byte) (connection, error) {
	value := func(key string) string { return strings.TrimSpace(string(secret[key])) }
	u, err := url.Parse(s.URL)
	if err != nil || u.Host == "" {
		return connection{}, &sourceError{"BadURL", "spec.source.url can't be read as a URL"} // the cause would repeat it, credentials and all
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return connection{}, &sourceError{"BadURL", fmt.Sprintf("spec.source.url is of scheme %s: git is spoken over https:// and http:// alone; use that URL and a token", u.Scheme)}
	}
	token := value("token")
	if token == "" {
		token = value("password")
	}
	inURL, _ := u.User.Password()
	conn := connection{
		remote:  repo.Remote{URL: s.URL, Username: value("username"), Password: value("password")},
		webhook: value("webhook"), secrets: []string{token, value("password"), value("webhook"), inURL},
	}
	if conn.remote.Password == "" {
		conn.remote.Password = token
	}
	conn.where = whereIs(s)
	api, name := apiOf(s.Host, u)
	to := host.Connection{URL: api, Token: token, Repository: name}
	switch s.Host {
	case "github":
		conn.host, conn.requests = &host.GitHub{Connection: to}, "refs/pull/%d/head"
	case "gitlab":
		conn.host, conn.requests = &host.GitLab{Connection: to}, "refs/merge-requests/%d/head"
	case "gitea":
		conn.host, conn.requests = &host.Gitea{Connection: to}, "refs/pull/%d/head"
	default:
		return conn, nil
	}
	if name == "" {
		return connection{}, &sourceError{"BadURL", fmt.Sprintf("spec.source.url %s has no owner and name of a repository, as %s has them", conn.where, s.Host)}
	}
	return conn, nil
}

// whereIs is a source's URL without credentials, for people.
func whereIs(s *v1alpha1.Source) string {
	u, err := url.Parse(s.URL)
	if err != nil {
		return "an outside host"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// apiOf returns the URL of a host's API and what a repository is called there. A Gitea
// may be below a path of its server; of a GitLab that can't be told.
func apiOf(kind string, u *url.URL) (api, name string) {
	p := strings.TrimSuffix(strings.Trim(u.Path, "/"), ".git")
	root := u.Scheme + "://" + u.Host
	parts := strings.Split(p, "/")
	if len(parts) < 2 {
		return root, ""
	}
	last := len(parts) - 2
	switch {
	case kind == "gitlab":
		return root + "/api/v4", p
	case kind == "gitea":
		return root + path.Join("/", path.Join(parts[:last]...), "api/v1"), path.Join(parts[last:]...)
	case strings.EqualFold(u.Host, "github.com"):
		return "https://api.github.com", path.Join(parts[last:]...)
	}
	return root + "/api/v3", path.Join(parts[last:]...)
}

// diagnose says what is wrong in a word and a sentence, without anything secret.
func (conn connection) diagnose(err error) *sourceError {
	var known *sourceError
	if errors.As(err, &known) {
		return known
	}
	text := err.Error()
	for _, secret := range conn.secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(text, w) {
				return true
			}
		}
		return false
	}
	answer, _ := errors.AsType[*host.APIError](err)
	_, limited := errors.AsType[*host.RateLimitError](err)
	_, refused := errors.AsType[*repo.RejectedError](err)
	_, byHost := errors.AsType[*hostError](err)
	e := &sourceError{"Error", text}
	switch {
	case limited:
		e.Reason = "RateLimited"
	case refused:
		e.Reason = "Rejected"
	case answer != nil && answer.Status == http.StatusUnauthorized, has("did not accept the credentials"):
		e.Reason = "BadCredentials"
	case answer != nil && answer.Status == http.StatusForbidden, has("have no right"):
		e.Reason = "NoRight"
	case answer != nil && answer.Status == http.StatusNotFound:
		e.Reason = "NoRepository"
	case has("' not found", "does not exist"):
		e.Reason = "NoRepository"
		e.Text += ": there is no such repository, or the credentials may not see it: see spec.source.url and the secret"
	case has("redirects to another address"):
		e.Reason = "Moved"
	case byHost:
		e.Reason = "Unreachable"
		e.Text += ": the host is away, or can't be reached from the controller; tried again"
	}
	return e
}
