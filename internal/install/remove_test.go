package install

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"github.com/bightdev/bight/internal/kube"
)

// terminating is a definition that is being removed, and how far that is.
func terminating(version, reason string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "tickets.bight.dev", "resourceVersion": version},
		"status":   map[string]any{"conditions": []any{map[string]any{"type": "Terminating", "status": "True", "reason": reason}}},
	}}
}

// TestADefinitionThatIsForgottenIsRemoved has an API server that goes on with the removal
// of a definition that it has failed at only when somebody writes to what is there.
func TestADefinitionThatIsForgottenIsRemoved(t *testing.T) {
	written := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.Method == http.MethodPatch:
			var patch unstructured.Unstructured
			if err := json.NewDecoder(r.Body).Decode(&patch.Object); err != nil {
				t.Error(err)
			}
			written <- r.URL.Path + " at " + patch.GetResourceVersion()
			_ = json.NewEncoder(w).Encode(terminating("3", "InstanceDeletionFailed"))
		case r.URL.Query().Get("watch") != "":
			w.WriteHeader(http.StatusOK)
			say := func(event string, u *unstructured.Unstructured) {
				_ = json.NewEncoder(w).Encode(map[string]any{"type": event, "object": u.Object})
				w.(http.Flusher).Flush()
			}
			say("MODIFIED", terminating("2", "InstanceDeletionFailed"))
			select {
			case <-r.Context().Done():
			case got := <-written:
				if want := "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/tickets.bight.dev at 2"; got != want {
					t.Errorf("%s is written, want %s", got, want)
				}
				say("DELETED", terminating("4", "InstanceDeletionCompleted"))
			}
		default: // nothing to write to yet
			_ = json.NewEncoder(w).Encode(map[string]any{
				"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinitionList",
				"metadata": map[string]any{"resourceVersion": "1"}, "items": []any{terminating("1", "InstanceDeletionInProgress").Object},
			})
		}
	}))
	defer server.Close()
	var said []string
	i := &Installer{Cluster: kube.New(&rest.Config{Host: server.URL}, "", ""), Say: func(text string) { said = append(said, text) }}
	if err := i.gone(t.Context(), terminating("1", "")); err != nil {
		t.Fatal(err)
	}
	if len(said) != 1 || said[0] != "removed customresourcedefinition/tickets.bight.dev" {
		t.Errorf("it says %q", said)
	}
}

// held is an API server, without a network, of which one definition never goes.
type held struct{}

func (held) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Query().Get("watch") != "" {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	list, err := json.Marshal(map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinitionList",
		"metadata": map[string]any{"resourceVersion": "1"}, "items": []any{terminating("1", "InstanceDeletionInProgress").Object},
	})
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(list)), Request: r,
	}, err
}

func TestWhatDoesNotGoIsATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &Installer{Cluster: kube.New(&rest.Config{Host: "http://api", Transport: held{}}, "", "")}
		began := time.Now()
		err := i.gone(t.Context(), terminating("1", ""))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != allowance {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}
