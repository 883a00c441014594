// Package place puts onto a cluster what the tests on Gateway API need: the
// definitions of its kinds, programs as images, and the objects that run them.
//
// The main type is [Place]. What it puts there is applied, so putting it again brings
// a cluster to the newest; nothing of it is ever deleted, since clusters of tests are.
// A Place may be used by several goroutines.
package place

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/gateway-api/pkg/consts"

	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/tree"
)

// manager is the owner of all fields that are applied.
const manager = "bight-test-gateway"

// Place is a cluster, and where layers of images are remembered.
type Place struct {
	Cluster *kube.Cluster
	Cache   string            // a directory
	Say     func(text string) // is told what has come into being
}

// Definitions applies the standard channel of Gateway API, as the module has it that
// this one is built with, and waits until its kinds are served.
func (p *Place) Definitions(ctx context.Context) error {
	dir, err := moduleDir("sigs.k8s.io/gateway-api")
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, "config/crd/standard/*.yaml"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("find the definitions of Gateway API %s in %s: there are none in config/crd/standard", consts.BundleVersion, dir)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read a definition of Gateway API: %w", err)
		}
		if err := p.Apply(ctx, b, nil); err != nil {
			return fmt.Errorf("apply %s: %w", filepath.Base(file), err)
		}
	}
	return nil
}

// moduleDir is where a module of this module's go.mod is.
func moduleDir(path string) (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", path).Output()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		return "", fmt.Errorf("find module %s: %w (run it in test/gateway; go mod download %[1]s brings what is missing)", path, err)
	}
	return dir, nil
}

// Push makes an image of a static program and pushes it to the cluster's registry. It
// returns what pods call it.
func (p *Place) Push(ctx context.Context, name, program string) (string, error) {
	registry, err := session.FindRegistry(ctx, p.Cluster, "")
	if err != nil {
		return "", err
	}
	var hashes *tree.Cache
	entry, err := hashes.Stat(program)
	if err != nil {
		return "", fmt.Errorf("read the program %s: %w", name, err)
	}
	entry.Mode = 0o755
	publisher := &image.Publisher{Store: image.OpenStore(filepath.Join(p.Cache, "store")), Log: slog.New(slog.DiscardHandler)}
	art := &image.Artifact{Service: name, Tree: tree.Tree{name: entry}, Command: []string{"./" + name}}
	made, err := publisher.Image(ctx, art, image.Options{Title: name})
	if err != nil {
		return "", err
	}
	pushed, err := publisher.Push(ctx, registry, image.Target{Repository: "test-gateway/" + name, Image: made})
	if err != nil {
		return "", err
	}
	return pushed[0].Ref, nil
}

// Apply applies the objects of a manifest. In it, {NAME} stands for values[NAME].
func (p *Place) Apply(ctx context.Context, manifest []byte, values map[string]string) error {
	objects, err := Objects(manifest, values)
	if err != nil {
		return err
	}
	for _, u := range objects {
		if err := p.apply(ctx, u); err != nil {
			return fmt.Errorf("apply %s %s: %w", u.GetKind(), u.GetName(), p.Cluster.Explain(err))
		}
	}
	return nil
}

// Objects reads the objects of a manifest, as [Place.Apply] does.
func Objects(manifest []byte, values map[string]string) (all []*unstructured.Unstructured, err error) {
	for name, value := range values {
		manifest = bytes.ReplaceAll(manifest, []byte("{"+name+"}"), []byte(value))
	}
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifest), 4096)
	for {
		u := &unstructured.Unstructured{}
		err := documents.Decode(u)
		switch {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, fmt.Errorf("read a manifest: %w", err)
		case len(u.Object) > 0:
			all = append(all, u)
		}
	}
}

func (p *Place) apply(ctx context.Context, u *unstructured.Unstructured) error {
	client, err := p.client(u)
	if err != nil {
		return err
	}
	after, err := client.Apply(ctx, u.GetName(), u, metav1.ApplyOptions{FieldManager: manager, Force: true})
	if err != nil {
		return err
	}
	if after.GetGeneration() <= 1 && after.GetResourceVersion() != "" {
		p.Say(strings.ToLower(u.GetKind()) + "/" + u.GetName())
	}
	if u.GetKind() == "CustomResourceDefinition" {
		return p.await(ctx, client, u.GetName(), established)
	}
	return nil
}

// client returns the client for objects like u.
func (p *Place) client(u *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	d, err := p.Cluster.Dynamic()
	if err != nil {
		return nil, err
	}
	m, err := p.Cluster.Mapper()
	if err != nil {
		return nil, err
	}
	kind := u.GroupVersionKind()
	mapping, err := m.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() == "namespace" {
		return d.Resource(mapping.Resource).Namespace(u.GetNamespace()), nil
	}
	return d.Resource(mapping.Resource), nil
}

// established says that a definition's kind is served.
func established(u *unstructured.Unstructured) bool { return condition(u, "Established") }

// rolledOut says that a Deployment has its pods, and that they are ready.
func rolledOut(u *unstructured.Unstructured) bool {
	seen, _, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration")
	want, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas")
	count := func(name string) int64 {
		n, _, _ := unstructured.NestedInt64(u.Object, "status", name)
		return n
	}
	return seen >= u.GetGeneration() && count("updatedReplicas") == want && count("replicas") == want && count("availableReplicas") == want
}

// condition says whether a condition of u's status is true.
func condition(u *unstructured.Unstructured, kind string) bool {
	all, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	return slices.ContainsFunc(all, func(one any) bool {
		c, ok := one.(map[string]any)
		return ok && c["type"] == kind && c["status"] == "True"
	})
}
