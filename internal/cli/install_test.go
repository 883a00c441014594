package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/bightdev/bight/internal/install"
)

// TestInstallRefusesBeforeItDoesAnything has a cluster with one volume, which announces no
// registry, and lets us ask for anything and do nothing.
func TestInstallRefusesBeforeItDoesAnything(t *testing.T) {
	refuse := func(w http.ResponseWriter, err *apierrors.StatusError) {
		err.ErrStatus.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
		w.WriteHeader(int(err.ErrStatus.Code))
		_ = json.NewEncoder(w).Encode(err.ErrStatus)
	}
	cluster := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, name := filepath.Split(r.URL.Path)
		switch {
		case name == "selfsubjectaccessreviews":
			fmt.Fprint(w, `{"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "status": {"allowed": true}}`)
		case r.Method == http.MethodPatch && name == install.Controller && r.URL.Query().Get("dryRun") == metav1.DryRunAll:
			refuse(w, apierrors.NewInvalid(schema.GroupKind{Kind: "PersistentVolumeClaim"}, name, nil))
		case r.Method != http.MethodGet:
			t.Errorf("%s %s changes something", r.Method, r.URL)
		case name == install.Controller:
			fmt.Fprint(w, `{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": {"resources": {"requests": {"storage": "50Gi"}}}}`)
		case name == "nodes":
			fmt.Fprint(w, `{"apiVersion": "v1", "kind": "NodeList", "items": [{"status": {"nodeInfo": {"architecture": "amd64"}}}]}`)
		default:
			refuse(w, apierrors.NewNotFound(schema.GroupResource{}, name))
		}
	}))
	defer cluster.Close()
	registry := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the registry is asked for %s %s", r.Method, r.URL)
	}))
	defer registry.Close()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: kind-dev, contexts: [{name: kind-dev, context: {cluster: c}}], clusters: [{name: c, cluster: {server: %q}}]}`, cluster.URL)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--volume", "10Gi"}, "--volume 10Gi: the controller's volume has 50Gi"},
		{[]string{"--image", "i", "--volume", "10Gi"}, "--volume 10Gi: the controller's volume has 50Gi"},
		{[]string{"--workers", "2"}, "the cluster announces no registry"},
	} {
		var out, errs bytes.Buffer
		p := &Program{Version: "v1", Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs}
		args := append([]string{"install", "--kubeconfig", kubeconfig, "--registry", registry.Listener.Addr().String()}, tt.args...)
		if code := p.Run(t.Context(), args); code != exitUsage || !strings.Contains(errs.String(), tt.want) {
			t.Errorf("%v: exit code %d, want %d and %q: %s", tt.args, code, exitUsage, tt.want, errs.String())
		}
	}
}
