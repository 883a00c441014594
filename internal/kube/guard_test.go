package kube

import (
	"errors"
	"strings"
	"testing"
)

func TestGuard(t *testing.T) {
	const remote = "https://203.0.113.7:6443"
	tests := []struct {
		context, cluster, server string
		allowed                  []string
		refused                  string // a part of the reason, "" for taken
	}{
		{context: "bight", server: remote},
		{context: "bight-two", server: remote},
		{context: "kind-shop", server: remote},
		{context: "k3d-dev", server: remote},
		{context: "minikube", server: "https://192.168.49.2:8443"},
		{context: "docker-desktop", server: "https://kubernetes.docker.internal:6443"},
		{context: "rancher-desktop", server: remote},
		{context: "colima", server: remote},
		{context: "colima-x86", server: remote},
		{context: "orbstack", server: remote},
		{context: "microk8s", server: remote},
		{context: "crc", server: remote},
		{context: "crc-admin", server: remote},
		{context: "default", server: "https://127.0.0.1:6443"},
		{context: "default", server: "https://127.9.8.7:6443"},
		{context: "default", server: "https://[::1]:6443"},
		{context: "default", server: "https://[::ffff:127.0.0.1]:6443"},
		{context: "default", server: "http://localhost:8080"},
		{context: "default", server: "https://api.dev.localhost"},
		{context: "default", server: "127.0.0.1:6443"},

		{context: "default", server: remote, refused: "does not look like"},
		{context: "team-dev", server: remote, refused: "does not look like"},
		{context: "kind", server: remote, refused: "does not look like"},
		{context: "my-minikube", server: remote, refused: "does not look like"},
		{context: "bighted", server: remote, refused: "does not look like"},
		{context: "x", server: "https://localhost.example.com", refused: "does not look like"},
		{context: "", server: "", refused: "does not look like"},

		{context: "kind-prod", server: "https://127.0.0.1:1", refused: `"prod"`},
		{context: "kind-Production", server: "https://127.0.0.1:1", refused: `"production"`},
		{context: "live", server: "https://127.0.0.1:1", refused: `"live"`},
		{context: "k3d-live2", server: "https://127.0.0.1:1", refused: `"live2"`},
		{context: "eu_prod1.example.com", server: "https://127.0.0.1:1", refused: `"prod1"`},
		{context: "euprod", server: "https://127.0.0.1:1", refused: `"euprod"`},
		{context: "minikube", cluster: "gke_acme_prod", server: "https://127.0.0.1:1", refused: `its cluster is called "gke_acme_prod"`},

		{context: "kind-product-page", server: remote},
		{context: "kind-delivery", server: remote},
		{context: "kind-olive", server: remote},

		{context: "team-dev", server: remote, allowed: []string{"x", "team-dev"}},
		{context: "eu-prod", server: remote, allowed: []string{"eu-prod"}},
		{context: "eu-prod", server: remote, allowed: []string{"eu-pro", "eu"}, refused: "production"},
	}
	for _, test := range tests {
		t.Run(test.context+" "+test.server, func(t *testing.T) {
			err := guard(test.context, test.cluster, test.server, test.allowed)
			if test.refused == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			var refused *GuardError
			if !errors.As(err, &refused) {
				t.Fatalf("got %v, want a GuardError", err)
			}
			for _, part := range []string{test.refused, "--allow-context " + test.context, "allowContexts"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
		})
	}
}
