//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	namespace  = "default"
	probeImage = "localhost:5000/test/probe:1"
	pauseImage = "localhost:5000/bight/pause:1"
)

// makeProbe returns an image with the probe and nothing else.
func makeProbe() (v1.Image, error) {
	binary, err := os.ReadFile(probeFile)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "probe", Mode: 0o755, Size: int64(len(binary))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(binary); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint, config.Config.User = []string{"/probe"}, "65532:65532"
	return mutate.ConfigFile(image, config)
}

func probeReference(registry string) (name.Reference, error) {
	return name.ParseReference(strings.Replace(registry, "localhost", "127.0.0.1", 1)+"/test/probe:1", name.Insecure)
}

// pushProbe puts the probe into the cluster's registry, through the machine's
// door, and returns its digest.
func (c *cluster) pushProbe(options ...remote.Option) v1.Hash {
	c.t.Helper()
	image, err := makeProbe()
	if err != nil {
		c.t.Fatal(err)
	}
	ref, err := probeReference(c.status().Registry)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := remote.Write(ref, image, options...); err != nil {
		c.t.Fatalf("push the probe: %v", err)
	}
	digest, err := image.Digest()
	if err != nil {
		c.t.Fatal(err)
	}
	return digest
}

// pod returns a pod that runs an image; the node may be empty.
func pod(name, image, node string) *core.Pod {
	no, grace := false, int64(1)
	return &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: core.PodSpec{
			NodeName: node, AutomountServiceAccountToken: &no, EnableServiceLinks: &no, TerminationGracePeriodSeconds: &grace,
			Containers: []core.Container{{Name: "main", Image: image}},
		},
	}
}

func service(name string) *core.Service {
	return &core.Service{
		ObjectMeta: meta.ObjectMeta{Name: name},
		Spec: core.ServiceSpec{
			Selector: map[string]string{"app": name},
			Ports:    []core.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
}

func deployment(name string) *apps.Deployment {
	p := pod(name, probeImage, "")
	return &apps.Deployment{
		ObjectMeta: meta.ObjectMeta{Name: name},
		Spec: apps.DeploymentSpec{
			Selector: &meta.LabelSelector{MatchLabels: p.Labels},
			Template: core.PodTemplateSpec{ObjectMeta: meta.ObjectMeta{Labels: p.Labels}, Spec: p.Spec},
		},
	}
}

func claim(name string) *core.PersistentVolumeClaim {
	return &core.PersistentVolumeClaim{
		ObjectMeta: meta.ObjectMeta{Name: name},
		Spec: core.PersistentVolumeClaimSpec{
			AccessModes: []core.PersistentVolumeAccessMode{core.ReadWriteOnce},
			Resources:   core.VolumeResourceRequirements{Requests: core.ResourceList{core.ResourceStorage: resource.MustParse("1Mi")}},
		},
	}
}

// withClaim mounts a claim's volume at /data.
func withClaim(p *core.Pod, claim string) *core.Pod {
	p.Spec.Volumes = []core.Volume{{Name: "data", VolumeSource: core.VolumeSource{
		PersistentVolumeClaim: &core.PersistentVolumeClaimVolumeSource{ClaimName: claim},
	}}}
	p.Spec.Containers[0].VolumeMounts = []core.VolumeMount{{Name: "data", MountPath: "/data"}}
	return p
}

// create makes an object, for as long as it takes: after a start the controllers
// still make what every namespace has.
func (c *cluster) create(object any) {
	c.t.Helper()
	ctx, o := c.t.Context(), meta.CreateOptions{}
	eventually(c.t, "create an object", func() error {
		var err error
		switch object := object.(type) {
		case *core.Pod:
			_, err = c.client.CoreV1().Pods(namespace).Create(ctx, object, o)
		case *core.Service:
			_, err = c.client.CoreV1().Services(namespace).Create(ctx, object, o)
		case *core.PersistentVolumeClaim:
			_, err = c.client.CoreV1().PersistentVolumeClaims(namespace).Create(ctx, object, o)
		case *apps.Deployment:
			_, err = c.client.AppsV1().Deployments(namespace).Create(ctx, object, o)
		case *networking.NetworkPolicy:
			_, err = c.client.NetworkingV1().NetworkPolicies(namespace).Create(ctx, object, o)
		default:
			c.t.Fatalf("create: what is a %T?", object)
		}
		if apierrors.IsAlreadyExists(err) { // by a try whose answer was lost
			return nil
		}
		return err
	})
}

// running waits for a pod to run, in a container started since a time.
func (c *cluster) running(name string, since time.Time) *core.Pod {
	c.t.Helper()
	var p *core.Pod
	eventually(c.t, "pod "+name, func() (err error) {
		if p, err = c.client.CoreV1().Pods(namespace).Get(c.t.Context(), name, meta.GetOptions{}); err != nil {
			return err
		}
		for _, s := range p.Status.ContainerStatuses {
			if s.State.Running == nil || s.State.Running.StartedAt.Time.Before(since.Truncate(time.Second)) {
				return fmt.Errorf("phase %s, container %+v", p.Status.Phase, s.State)
			}
			return nil
		}
		return fmt.Errorf("phase %s, %+v", p.Status.Phase, p.Status.Conditions)
	})
	return p
}

// answer is what a probe says.
type answer struct {
	Value    string   `json:"value"`
	Values   []string `json:"values"`
	NotFound bool     `json:"notFound"`
	Error    string   `json:"error"`
}

// ask asks a probe, through the API server.
func (c *cluster) ask(pod, question string) (answer, error) {
	b, err := c.proxy(pod, question)
	if err != nil {
		return answer{}, err
	}
	var a answer
	if err := json.Unmarshal(b, &a); err != nil {
		return answer{}, fmt.Errorf("%w: %s", err, b)
	}
	return a, nil
}

// wants asks a probe until it gives the value.
func (c *cluster) wants(pod, question, value string) {
	c.t.Helper()
	eventually(c.t, pod+" "+question, func() error {
		a, err := c.ask(pod, question)
		if err == nil && a.Error != "" {
			err = errors.New(a.Error)
		}
		if err == nil && a.Value != value {
			err = fmt.Errorf("got %q, want %q", a.Value, value)
		}
		return err
	})
}
