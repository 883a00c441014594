package controller

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change/host"
	"github.com/bightdev/bight/internal/change/repo"
)

func TestAHostsAPIFollowsFromTheURL(t *testing.T) {
	for _, test := range []struct{ kind, url, api, name string }{
		{"github", "https://github.com/acme/shop.git", "https://api.github.com", "acme/shop"},
		{"github", "https://GitHub.com/acme/shop", "https://api.github.com", "acme/shop"},
		{"github", "https://ghe.example.org:8443/acme/shop.git/", "https://ghe.example.org:8443/api/v3", "acme/shop"},
		{"gitlab", "https://gitlab.com/acme/web/shop.git", "https://gitlab.com/api/v4", "acme/web/shop"},
		{"gitea", "http://git.example.org:3000/acme/shop.git", "http://git.example.org:3000/api/v1", "acme/shop"},
		{"gitea", "https://example.org/code/acme/shop.git", "https://example.org/code/api/v1", "acme/shop"},
		{"gitea", "https://example.org/shop.git", "https://example.org", ""},
	} {
		u, err := url.Parse(test.url)
		if err != nil {
			t.Fatal(err)
		}
		if api, name := apiOf(test.kind, u); api != test.api || name != test.name {
			t.Errorf("%s %s: %s %q, want %s %q", test.kind, test.url, api, name, test.api, test.name)
		}
	}
}

func TestCredentialsOfASecret(t *testing.T) {
	for _, test := range []struct {
		name, url string
		secret    map[string]string
		want      repo.Remote
		token     string
	}{
		{"token", "https://h/a/b", map[string]string{"token": "t\n"}, repo.Remote{URL: "https://h/a/b", Password: "t"}, "t"},
		{"password", "https://h/a/b", map[string]string{"username": "u", "password": "p"}, repo.Remote{URL: "https://h/a/b", Username: "u", Password: "p"}, "p"},
		{"both", "https://h/a/b", map[string]string{"username": "u", "password": "p", "token": "t"}, repo.Remote{URL: "https://h/a/b", Username: "u", Password: "p"}, "t"},
		{"none", "https://h/a/b", nil, repo.Remote{URL: "https://h/a/b"}, ""},
	} {
		data := map[string][]byte{}
		for k, v := range test.secret {
			data[k] = []byte(v)
		}
		conn, err := connect(&v1alpha1.Source{URL: test.url, Host: "gitea"}, data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, conn.remote); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
		if got := conn.host.(*host.Gitea).Token; got != test.token {
			t.Errorf("%s: the host's token is %q", test.name, got)
		}
	}
}

func TestAURLThatCantBeUsed(t *testing.T) {
	for _, s := range []v1alpha1.Source{
		{URL: "ssh://git@example.org/acme/shop"},
		{URL: "https://"},
		{URL: "https://example.org/shop", Host: "github"},
		{URL: "https://user:s3cret@exa mple/%zz"},
	} {
		_, err := connect(&s, nil)
		e, ok := errors.AsType[*sourceError](err)
		if !ok || e.Reason != "BadURL" || strings.Contains(e.Text, "s3cret") {
			t.Errorf("%s: %v", s.URL, err)
		}
	}
}

func TestWhatIsWrongWithAHost(t *testing.T) {
	conn := connection{secrets: []string{"", "t0k3n"}}
	for _, test := range []struct {
		err    error
		reason string
	}{
		{&hostError{errors.New("fetch https://h/a: git fetch: Authentication failed for t0k3n: the host did not accept the credentials: renew the token")}, "BadCredentials"},
		{&hostError{errors.New("fetch https://h/a: error: 403: the credentials have no right to this repository")}, "NoRight"},
		{&hostError{errors.New("fetch https://h/a: git fetch: repository 'https://h/a/' not found")}, "NoRepository"},
		{&hostError{errors.New("the host redirects to another address, which is not followed")}, "Moved"},
		{&hostError{errors.New("fetch https://h/a: Could not resolve host: h")}, "Unreachable"},
		{&hostError{&host.APIError{Status: 401, Message: "bad t0k3n"}}, "BadCredentials"},
		{&hostError{&host.APIError{Status: 403}}, "NoRight"},
		{&hostError{&host.APIError{Status: 404}}, "NoRepository"},
		{&hostError{&host.APIError{Status: 502}}, "Unreachable"},
		{&hostError{fmt.Errorf("list: %w", &host.RateLimitError{})}, "RateLimited"},
		{&hostError{&repo.RejectedError{Ref: "refs/heads/main", Reason: "protected"}}, "Rejected"},
		{errors.New("the volume is full"), "Error"},
		{&sourceError{"NoSecret", "there is none"}, "NoSecret"},
	} {
		got := conn.diagnose(test.err)
		if got.Reason != test.reason || strings.Contains(got.Text, "t0k3n") {
			t.Errorf("%v: %+v, want %s", test.err, got, test.reason)
		}
	}
}
