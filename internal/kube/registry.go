package kube

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Registry is a local registry that a cluster announces (KEP-1755): the same
// content under up to three names.
type Registry struct {
	Host                     string `json:"host,omitempty"` // as this machine reaches it
	HostFromContainerRuntime string `json:"hostFromContainerRuntime,omitempty"`
	HostFromClusterNetwork   string `json:"hostFromClusterNetwork,omitempty"` // as pods reach it
	Help                     string `json:"help,omitempty"`
}

// PullHost is the name that pod specifications use.
func (r Registry) PullHost() string {
	if r.HostFromContainerRuntime != "" {
		return r.HostFromContainerRuntime
	}
	return r.Host
}

// LocalRegistry returns the registry that the cluster announces, nil when it
// announces none or may not be asked.
func (c *Cluster) LocalRegistry(ctx context.Context) (*Registry, error) {
	client, err := c.Typed()
	if err != nil {
		return nil, err
	}
	cm, err := client.CoreV1().ConfigMaps("kube-public").Get(ctx, "local-registry-hosting", metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look for a local registry: %w", c.Explain(err))
	}
	r, err := parseRegistry(cm.Data["localRegistryHosting.v1"])
	if err != nil {
		return nil, fmt.Errorf("ConfigMap kube-public/local-registry-hosting, key localRegistryHosting.v1: %w", err)
	}
	return r, nil
}

// parseRegistry returns nil for an announcement without any name.
func parseRegistry(text string) (*Registry, error) {
	var r Registry
	if err := yaml.Unmarshal([]byte(text), &r); err != nil {
		return nil, err
	}
	if r.PullHost() == "" {
		return nil, nil
	}
	return &r, nil
}
