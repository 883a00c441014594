//go:build e2e

// Package e2e runs the real programs against a real cluster. `make test` makes
// the cluster and says where it is; see scripts/test.
package e2e

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/bightdev/bight/api/v1alpha1"
)

// patience is how long anything may take that takes milliseconds on a quiet
// machine.
const patience = 90 * time.Second

var (
	binaries string
	config   *rest.Config
	client   kubernetes.Interface
	objects  dynamic.Interface // of Bight's own kinds
)

func TestMain(m *testing.M) {
	binaries = os.Getenv("BIGHT_BIN_DIR")
	kubeconfig := os.Getenv("BIGHT_TEST_KUBECONFIG")
	if binaries == "" || kubeconfig == "" {
		fmt.Fprintln(os.Stderr, "these tests need a cluster and the built programs: run make test")
		os.Exit(1)
	}
	var err error
	if config, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err == nil {
		config.QPS = -1
		client, err = kubernetes.NewForConfig(config)
	}
	if err == nil {
		objects, err = dynamic.NewForConfig(config)
	}
	if err == nil {
		err = reserve()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// reserve keeps all nodes but the first for those tests that ask for another.
func reserve() error {
	nodes, err := client.CoreV1().Nodes().List(context(), meta.ListOptions{})
	if err != nil {
		return err
	}
	for _, n := range nodes.Items[1:] {
		if err := schedulable(n.Name, false); err != nil {
			return err
		}
	}
	return nil
}

// schedulable says whether new pods may come to a node.
func schedulable(node string, may bool) error {
	_, err := client.CoreV1().Nodes().Patch(context(), node, types.MergePatchType, fmt.Appendf(nil, `{"spec":{"unschedulable":%v}}`, !may), meta.PatchOptions{})
	return err
}

// read reads an object of one of Bight's own kinds, which T is.
func read[T any](of schema.GroupVersionResource, namespace, name string) (*T, error) {
	u, err := objects.Resource(of).Namespace(namespace).Get(context(), name, meta.GetOptions{})
	if err != nil {
		return nil, err
	}
	o := new(T)
	return o, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, o)
}

// readReleases reads those of a namespace, the oldest first.
func readReleases(namespace string) ([]v1alpha1.Release, error) {
	list, err := objects.Resource(v1alpha1.Releases()).Namespace(namespace).List(context(), meta.ListOptions{})
	if err != nil {
		return nil, err
	}
	var all v1alpha1.ReleaseList
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.UnstructuredContent(), &all); err != nil {
		return nil, err
	}
	slices.SortStableFunc(all.Items, func(a, b v1alpha1.Release) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return all.Items, nil
}

// lab is an app's source directory and its environment in the cluster.
type lab struct {
	*testing.T
	dir       string
	namespace string
}

// newLab makes a directory with the files given, by path, and an environment that
// is removed when the test ends.
func newLab(t *testing.T, files map[string]string) *lab {
	t.Helper()
	l := &lab{T: t, dir: t.TempDir(), namespace: name(t)}
	for path, content := range files {
		l.write(path, content)
	}
	l.vacate(l.namespace)
	t.Cleanup(l.remove)
	return l
}

// vacate removes a namespace that a run before this one has left, which was killed
// perhaps or is still being cleaned up after, and waits until it is gone.
func (l *lab) vacate(namespace string) {
	l.Helper()
	l.eventually("namespace "+namespace+" is gone", func() error {
		left, err := client.CoreV1().Namespaces().Get(context(), namespace, meta.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return err
		case left.DeletionTimestamp == nil:
			err = client.CoreV1().Namespaces().Delete(context(), namespace, deleteNow())
		}
		return cmp.Or(err, fmt.Errorf("it is %s", left.Status.Phase))
	})
}

// name turns the test's name into a namespace's.
func name(t *testing.T) string {
	var b strings.Builder
	for _, r := range t.Name() {
		switch {
		case r >= 'A' && r <= 'Z':
			b.WriteRune(r + 'a' - 'A')
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			b.WriteRune(r)
		}
	}
	return "t-" + b.String()[4:min(b.Len(), 50)]
}

func (l *lab) remove() {
	if l.Failed() {
		out, _ := l.kubectl("get", "pods,events", "-n", l.namespace, "-o", "wide")
		l.Logf("the cluster:\n%s", out)
	}
	_ = client.CoreV1().Namespaces().Delete(context(), l.namespace, deleteNow())
}

// write writes a file the way that many editors do: beside, then renamed.
func (l *lab) write(path, content string) {
	l.Helper()
	file := filepath.Join(l.dir, path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		l.Fatal(err)
	}
	tmp := file + ".tmp~"
	if err := os.WriteFile(tmp, []byte(content), 0o644); err != nil {
		l.Fatal(err)
	}
	if err := os.Rename(tmp, file); err != nil {
		l.Fatal(err)
	}
}

// bight runs the program to its end.
func (l *lab) bight(args ...string) (stdout, stderr string, code int) {
	l.Helper()
	return l.bightWith(nil, args...)
}

func (l *lab) bightWith(env []string, args ...string) (stdout, stderr string, code int) {
	l.Helper()
	cmd := exec.Command(filepath.Join(binaries, "bight"), args...)
	cmd.Dir = l.dir
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		l.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// once runs bight up --once and fails the test unless it succeeds.
func (l *lab) once(args ...string) string {
	l.Helper()
	_, errs, code := l.bight(append([]string{"up", "--once", "-n", l.namespace}, args...)...)
	if code != 0 {
		l.Fatalf("bight up --once: exit code %d\n%s", code, errs)
	}
	return errs
}

func (l *lab) kubectl(args ...string) (string, error) {
	out, err := exec.Command(filepath.Join(binaries, "bight-kube"), append([]string{"kubectl"}, args...)...).CombinedOutput()
	return string(out), err
}

// status is what bight status -o json prints.
type status struct {
	App      string
	Services []struct {
		Name            string
		Ready, Replicas int
		Image, URL      string
		InSync, Running bool
		Why, Tree       string
		Output          []string
	}
}

func (l *lab) status() status {
	l.Helper()
	out, errs, code := l.bight("status", "-o", "json", "-n", l.namespace)
	if code != 0 && code != 1 { // 1: something does not run
		l.Fatalf("bight status: exit code %d\n%s", code, errs)
	}
	var s status
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		l.Fatalf("%v in %s", err, out)
	}
	return s
}

// inSync returns nil when every service says that it is.
func (l *lab) inSync() error {
	for _, s := range l.status().Services {
		if !s.InSync {
			return fmt.Errorf("%s is not in sync: %s", s.Name, s.Why)
		}
	}
	return nil
}

// session is a running bight up.
type session struct {
	*lab
	cmd    *exec.Cmd
	events string
	output *lockedBuffer
	ended  chan struct{}
}

// up starts bight up and waits for the URLs.
func (l *lab) up(args ...string) *session {
	l.Helper()
	s := l.launch(args...)
	l.eventually("URLs", func() error {
		if len(s.eventsOf("url")) == 0 {
			return errors.New("none yet")
		}
		return nil
	})
	return s
}

// launch starts bight up and returns at once.
func (l *lab) launch(args ...string) *session {
	l.Helper()
	s := &session{lab: l, events: filepath.Join(l.TempDir(), "events"), output: &lockedBuffer{}, ended: make(chan struct{})}
	s.cmd = exec.Command(filepath.Join(binaries, "bight"), append([]string{"up", "-n", l.namespace, "--events", s.events}, args...)...)
	s.cmd.Dir = l.dir
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	if err := s.cmd.Start(); err != nil {
		l.Fatal(err)
	}
	go func() { defer close(s.ended); _ = s.cmd.Wait() }()
	l.Cleanup(func() {
		s.signal(syscall.SIGINT)
		if l.Failed() {
			l.Logf("bight up said:\n%s", s.output)
		}
	})
	return s
}

// signal sends a signal and waits for the end.
func (s *session) signal(sig syscall.Signal) int {
	s.Helper()
	_ = s.cmd.Process.Signal(sig)
	select {
	case <-s.ended:
	case <-time.After(patience):
		_ = s.cmd.Process.Kill()
		s.Errorf("bight up did not end after %v", sig)
		<-s.ended
	}
	return s.cmd.ProcessState.ExitCode()
}

// event is one line of the events file.
type event struct {
	Type, Service, Text, URL, Error string
	MS                              map[string]float64
	Files                           int
	Bytes                           int64
}

func (s *session) eventsOf(kind string) []event {
	s.Helper()
	b, err := os.ReadFile(s.events)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.Fatal(err)
	}
	var all []event
	for line := range bytes.Lines(b) {
		var e event
		if !bytes.HasSuffix(line, []byte("\n")) {
			continue // it is being written
		}
		if err := json.Unmarshal(line, &e); err != nil {
			s.Fatalf("%v in %s", err, line)
		}
		if e.Type == kind {
			all = append(all, e)
		}
	}
	return all
}

// url returns the URL of a service.
func (s *session) url(service string) string {
	s.Helper()
	for _, e := range s.eventsOf("url") {
		if e.Service == service {
			return e.URL
		}
	}
	s.Fatalf("no URL of %s", service)
	return ""
}

// get returns the body of a page of a service. The URL's host ends in .localhost,
// which not every resolver knows, so the connection goes to 127.0.0.1.
func (s *session) get(service, path string) (string, error) {
	return s.fetch(service, path, nil)
}

func (s *session) fetch(service, path string, change func(*http.Request)) (string, error) {
	s.Helper()
	request, err := http.NewRequest(http.MethodGet, s.url(service)+path, nil)
	if err != nil {
		return "", err
	}
	host := request.URL.Host
	request.Host = host
	request.URL.Host = "127.0.0.1" + host[strings.LastIndexByte(host, ':'):]
	if change != nil {
		change(request)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= 400 {
		err = fmt.Errorf("%s: %.200s", response.Status, body)
	}
	return string(body), err
}

// serves waits until a service answers with a page that contains text.
func (s *session) serves(service, path, text string) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s serves %q", service, text), func() error {
		body, err := s.get(service, path)
		if err == nil && !strings.Contains(body, text) {
			err = fmt.Errorf("it serves %.200q", body)
		}
		return err
	})
}

// eventually waits until f returns nil.
func (l *lab) eventually(what string, f func() error) {
	l.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			l.Fatalf("%s: not after %s: %v", what, patience, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
