package image

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
)

func TestReachable(t *testing.T) {
	answers := func(code int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
	}
	tests := []struct {
		name    string
		handler http.Handler
		want    string // in the error; "" means none
	}{
		{"a registry", registry.New(), ""},
		{"one that wants credentials", answers(http.StatusUnauthorized), ""},
		{"something else", answers(http.StatusNotFound), "it answers 404 Not Found to a request for /v2/: name one that works with --registry"},
		{"nothing", nil, "connection refused: nothing answers there"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(test.handler)
			defer server.Close()
			if test.handler == nil {
				server.Close()
			}
			err := Reachable(t.Context(), Registry{Push: server.Listener.Addr().String() + "/team"}, http.DefaultTransport)
			if test.want == "" {
				if err != nil {
					t.Errorf("Reachable = %v", err)
				}
				return
			}
			if !errors.As(err, new(*RegistryError)) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Reachable = %v, want a RegistryError with %q", err, test.want)
			}
		})
	}
}
