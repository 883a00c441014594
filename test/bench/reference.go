package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/mod/modfile"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// buildReferences builds what ours is compared with: upstream's kubectl as a
// program of its own, and the image of the box.
func (b *bed) buildReferences(ctx context.Context) error {
	b.say("building kubectl: seconds after the embedded cluster was built, minutes else")
	var err error
	if b.kubectl, err = b.buildKubectl(ctx); err != nil {
		return err
	}
	box := filepath.Join(b.work, "box")
	if _, _, err := runIn(ctx, b.root, static(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", box, "./test/bench/box"); err != nil {
		return err
	}
	b.boxImage, err = b.pushProgram(ctx, box)
	return err
}

// static is the environment of go commands whose programs run in any image.
func static() []string { return []string{"CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off"} }

const kubectlSource = `package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
)

func main() { os.Exit(cli.Run(cmd.NewDefaultKubectlCommand())) }
`

// buildKubectl builds kubectl from the module versions of the embedded cluster.
// The subcommand of bight-kube has all of Kubernetes to initialize and takes
// nearly twice as long to start, which would flatter ours.
func (b *bed) buildKubectl(ctx context.Context) (string, error) {
	dir, err := b.module(ctx, "kubectl", filepath.Join(b.root, "cluster"), map[string]string{"main.go": kubectlSource})
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "kubectl")
	_, _, err = runIn(ctx, dir, static(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, ".")
	return program, err
}

// module makes a module that has the dependencies of another, in their versions.
func (b *bed) module(ctx context.Context, name, from string, files map[string]string) (string, error) {
	text, err := os.ReadFile(filepath.Join(from, "go.mod"))
	if err != nil {
		return "", err
	}
	sums, err := os.ReadFile(filepath.Join(from, "go.sum"))
	if err != nil {
		return "", err
	}
	mod, err := requirements(name, text)
	if err != nil {
		return "", err
	}
	files["go.mod"], files["go.sum"] = string(mod), string(sums)
	dir, err := b.write(name, files)
	if err != nil {
		return "", err
	}
	// The go command may want to list what only these packages need.
	_, _, err = runIn(ctx, dir, append(static(), "GOFLAGS=-mod=mod"), "go", "list", "-deps", ".")
	return dir, err
}

// requirements returns a go.mod that requires what another does, and nothing else.
func requirements(name string, text []byte) ([]byte, error) {
	from, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		return nil, err
	}
	to := new(modfile.File)
	if err := errors.Join(to.AddModuleStmt("example.com/"+name), to.AddGoStmt(from.Go.Version)); err != nil {
		return nil, err
	}
	to.SetRequireSeparateIndirect(from.Require)
	return to.Format()
}

// pushProgram puts a program into an image of its own and that into the registry.
// It returns the image's reference for pods.
func (b *bed) pushProgram(ctx context.Context, program string) (string, error) {
	content, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	layer, err := programLayer(filepath.Base(program), content)
	if err != nil {
		return "", err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return "", err
	}
	digest, err := img.Digest()
	if err != nil {
		return "", err
	}
	name := "/bench/" + filepath.Base(program) + ":" + digest.Hex[:12]
	if err := crane.Push(img, b.registry.Host+name, crane.WithContext(ctx), crane.Insecure); err != nil {
		return "", fmt.Errorf("push the reference's image: %w", err)
	}
	return b.registry.PullHost() + name, nil
}

// programLayer returns a layer with one program at its root.
func programLayer(name string, content []byte) (v1.Layer, error) {
	var b bytes.Buffer
	archive := tar.NewWriter(&b)
	err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o755})
	if err == nil {
		_, err = archive.Write(content)
	}
	if err = errors.Join(err, archive.Close()); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
}

// barePod is the least of a pod: one container, no probe, and a directory in memory
// as a sandbox's pods have it.
func barePod(name, image string, command ...string) *core.Pod {
	now := int64(0)
	no := false
	return &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: name},
		Spec: core.PodSpec{
			TerminationGracePeriodSeconds: &now,
			AutomountServiceAccountToken:  &no,
			Containers: []core.Container{{
				Name: "bare", Image: image, Command: command, ImagePullPolicy: core.PullIfNotPresent,
				VolumeMounts: []core.VolumeMount{{Name: "data", MountPath: "/data"}},
			}},
			Volumes: []core.Volume{{Name: "data", VolumeSource: core.VolumeSource{EmptyDir: &core.EmptyDirVolumeSource{Medium: core.StorageMediumMemory}}}},
		},
	}
}

// startPod creates a bare pod and returns how long it took from then until it was
// ready.
func (b *bed) startPod(ctx context.Context, namespace string, pod *core.Pod) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pods := b.client.CoreV1().Pods(namespace)
	w, err := pods.Watch(ctx, meta.ListOptions{FieldSelector: "metadata.name=" + pod.Name})
	if err != nil {
		return 0, err
	}
	defer w.Stop()
	began := time.Now()
	if _, err := pods.Create(ctx, pod, meta.CreateOptions{}); err != nil {
		return 0, err
	}
	why := "nothing was heard of it"
	for event := range w.ResultChan() {
		is, ok := event.Object.(*core.Pod)
		if !ok {
			continue
		}
		if isReady(is) {
			return time.Since(began), nil
		}
		for _, c := range is.Status.ContainerStatuses {
			if c.State.Waiting != nil {
				why = c.State.Waiting.Reason + ": " + c.State.Waiting.Message
			}
		}
	}
	return 0, fmt.Errorf("pod %s/%s is not ready after %s: %s", namespace, pod.Name, time.Since(began).Round(time.Second), why)
}

func isReady(pod *core.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == core.PodReady {
			return c.Status == core.ConditionTrue
		}
	}
	return false
}

// box makes a namespace with one box in it.
func (b *bed) box(ctx context.Context, namespace string) (remove func(), err error) {
	if remove, err = b.environment(ctx, namespace); err != nil {
		return nil, err
	}
	if _, err := b.startPod(ctx, namespace, barePod("box", b.boxImage, "/box", "wait")); err != nil {
		remove()
		return nil, err
	}
	return remove, nil
}

// execTrue measures one kubectl exec of a program that does nothing.
func (b *bed) execTrue(namespace string) action {
	return func(ctx context.Context, _ int) (time.Duration, error) {
		_, took, err := runIn(ctx, b.work, nil, b.kubectl, "exec", "-n", namespace, "box", "--", "/box", "true")
		return took, err
	}
}

// execTar measures tar of a directory, piped through kubectl exec.
func (b *bed) execTar(namespace, dir string) action {
	return func(ctx context.Context, _ int) (time.Duration, error) {
		pack := exec.CommandContext(ctx, "tar", "-cf", "-", "-C", dir, ".")
		unpack := exec.CommandContext(ctx, b.kubectl, "exec", "-i", "-n", namespace, "box", "--", "/box", "untar", "/data")
		pipe, err := pack.StdoutPipe()
		if err != nil {
			return 0, err
		}
		var errs strings.Builder
		unpack.Stdin, unpack.Stderr = pipe, &errs
		began := time.Now()
		if err := pack.Start(); err != nil {
			return 0, err
		}
		err = unpack.Run()
		took := time.Since(began)
		if err = errors.Join(err, pack.Wait()); err != nil {
			return 0, fmt.Errorf("tar through kubectl exec: %w\n%s", err, errs.String())
		}
		return took, nil
	}
}

// goBuild measures a bare go build of the module in dir, right after edit.
func (b *bed) goBuild(dir string, edit func(dir string, round int) error) action {
	return func(ctx context.Context, round int) (time.Duration, error) {
		if err := edit(dir, round); err != nil {
			return 0, err
		}
		_, took, err := runIn(ctx, dir, static(), "go", "build", "-o", b.builtBy(dir), ".")
		return took, err
	}
}

// builtBy is where goBuild leaves the program.
func (b *bed) builtBy(dir string) string { return dir + "-program" }
