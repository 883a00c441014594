//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	registryname "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
)

// TestShipAttested has the images of an app looked at before they are deployed.
func TestShipAttested(t *testing.T) {
	d := newDock(t)
	if err := os.RemoveAll(filepath.Join(d.dir, "stock")); err != nil {
		t.Fatal(err)
	}
	ours, public := signingKey(t)
	theirs, _ := signingKey(t)

	first := d.commit("The app")
	d.ships(0)
	image := d.change(first).Status.Images["cart"]
	want := map[string]bool{"https://spdx.dev/Document": false, "https://slsa.dev/provenance/v1": false}
	if diff := cmp.Diff(want, d.attached(image)); diff != "" {
		t.Errorf("attached to an unsigned image, and whether it is signed (-want +got):\n%s", diff)
	}

	d.demand(public)
	d.write("cart/main.go", shipped("cart", "second"))
	refused := func(title, want string, args ...string) {
		t.Helper()
		name := d.commit(title)
		said := d.ships(1, args...)
		if c := d.change(name); c.Status.Phase != v1alpha1.Refused || c.Status.Merged != "" || !strings.Contains(said, want) {
			t.Errorf("%s: phase %q, merged %q; it does not say %q:\n%s", title, c.Status.Phase, c.Status.Merged, want, said)
		}
		d.git("reset", "--quiet", "--soft", "HEAD~1")
		d.says1(d.prod, "cart", "first")
	}
	refused("Unsigned", "service cart: image ")
	refused("Signed by a stranger", "by a key that is not trusted", "--signing-key", theirs)

	// The image is as it was; what it lacks is attached.
	name := d.commit("Signed")
	d.ships(0, "--signing-key", ours)
	d.serves(d.prod, "cart", "second")
	image = d.change(name).Status.Images["cart"]
	want = map[string]bool{"https://spdx.dev/Document": true, "https://slsa.dev/provenance/v1": true}
	if diff := cmp.Diff(want, d.attached(image)); diff != "" {
		t.Errorf("attached to a signed image (-want +got):\n%s", diff)
	}

	// What is signed stays so, whoever builds it anew.
	d.write("README.md", "Words.\n")
	d.commit("Words")
	d.ships(0)
}

// signingKey makes a key, and returns the file that it is in and its public half.
func signingKey(t *testing.T) (file, public string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	half, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: half}))
}

// demand makes a signature by a key the App's policy.
func (d *dock) demand(public string) {
	d.Helper()
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"policy": map[string]any{"verify": map[string]any{"keys": []string{public}}}}})
	if err != nil {
		d.Fatal(err)
	}
	if out, err := d.kubectl("patch", "app", d.namespace, "-n", d.namespace, "--type", "merge", "-p", string(patch)); err != nil {
		d.Fatalf("%v: %s", err, out)
	}
}

// says1 checks what a service says now.
func (d *dock) says1(namespace, service, word string) {
	d.Helper()
	if err := d.says(namespace, service, word); err != nil {
		d.Errorf("%s in %s: %v", service, namespace, err)
	}
}

// attached are the predicates of the statements that are attached to an image, and
// whether a signed one is among those of a kind. They are about that image.
func (d *dock) attached(image string) map[string]bool {
	d.Helper()
	announced, err := client.CoreV1().ConfigMaps("kube-public").Get(context(), "local-registry-hosting", meta.GetOptions{})
	if err != nil {
		d.Fatal(err)
	}
	host := regexp.MustCompile(`host: "([^"]+)"`).FindStringSubmatch(announced.Data["localRegistryHosting.v1"])[1]
	_, path, _ := strings.Cut(image, "/")
	ref, err := registryname.NewDigest(host + "/" + path)
	if err != nil {
		d.Fatal(err)
	}
	index, err := remote.Referrers(ref)
	if err != nil {
		d.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		d.Fatal(err)
	}
	out := map[string]bool{}
	for _, m := range list.Manifests {
		about := m.Annotations["in-toto.io/predicate-type"]
		if about == "" {
			continue // a signature
		}
		signed := m.ArtifactType == "application/vnd.dsse.envelope.v1+json"
		out[about] = out[about] || signed
		d.about(ref, ref.Context().Digest(m.Digest.String()), about)
	}
	return out
}

// about checks that a statement is about an image, and tells what it should.
func (d *dock) about(image, at registryname.Digest, predicate string) {
	d.Helper()
	got, err := remote.Image(at)
	if err != nil {
		d.Fatal(err)
	}
	layers, err := got.Layers()
	if err != nil || len(layers) != 1 {
		d.Fatalf("%d layers, %v", len(layers), err)
	}
	r, err := layers[0].Compressed()
	if err != nil {
		d.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		d.Fatal(err)
	}
	var envelope struct {
		Payload []byte `json:"payload"`
	}
	if json.Unmarshal(text, &envelope) == nil && len(envelope.Payload) > 0 {
		text = envelope.Payload
	}
	for _, want := range map[string][]string{
		"https://spdx.dev/Document":      {image.Identifier()[len("sha256:"):], "srv/app/cart", "pkg:golang/std@"},
		"https://slsa.dev/provenance/v1": {image.Identifier()[len("sha256:"):], v1alpha1.WorkerBuilder, `"gitCommit"`, `"service":"cart"`, "pkg:generic/go@"},
	}[predicate] {
		if !strings.Contains(string(text), want) {
			d.Errorf("%s of %s lacks %q:\n%s", predicate, image, want, text)
		}
	}
}
