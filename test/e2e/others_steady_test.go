//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/bightdev/bight/internal/steer"
)

func testOthersKilledLaptop(b *bay) {
	ada := b.laptop("ada")
	s := b.intercept("ada", "svc/till", "--port", ada.at(8080))
	b.answers("ada", b.client(false, false), till)
	began := time.Now()
	s.signal(syscall.SIGKILL)
	b.soon("killed: the app answers", b.until("app", till), silence)
	b.eventually("no Intercept is left", func() error {
		if all := b.intercepts(); len(all) > 0 {
			return fmt.Errorf("there is %s", all[0].GetName())
		}
		return nil
	})
	b.soon("killed: nothing is left", time.Since(began), 15*time.Second)
}

func testOthersNetworkCut(b *bay) {
	th, kubeconfig := throughThrottle(b.T)
	held := b.background(nil, "run", "svc/till", "--kubeconfig", kubeconfig, "--intercept", "--", b.program("tool"), "hold", "stock:7000")
	held.says("number 5\n")
	cut := time.Now()
	th.set(true)
	b.eventually("no Intercept is left", func() error {
		if all := b.intercepts(); len(all) > 0 {
			return fmt.Errorf("there is %s", all[0].GetName())
		}
		return nil
	})
	b.soon("cut: no Intercept is left", time.Since(cut), 15*time.Second)
	b.answers("app", b.client(false, false), till)
	time.Sleep(time.Until(cut.Add(20 * time.Second))) // as long as it is promised
	numbers := strings.Count(held.output.String(), "number ")
	th.set(false)
	back := time.Now()
	b.eventually("the open connection goes on", func() error {
		if n := strings.Count(held.output.String(), "number "); n <= numbers {
			return fmt.Errorf("%d numbers, as before:\n%s", n, held.output)
		}
		return nil
	})
	b.soon("back: the open connection goes on", time.Since(back), 5*time.Second)
	b.eventually("the intercept is in force again", func() error {
		for _, i := range b.list() {
			if i.State == steer.Active {
				return nil
			}
		}
		return fmt.Errorf("there is %+v", b.list())
	})
	b.Logf("back: the intercept is in force again after %s", time.Since(back).Round(time.Millisecond))
	held.signal(syscall.SIGINT)
	b.noIntercepts(2 * time.Second)
}

func testOthersRevoked(b *bay) {
	ada := b.laptop("ada")
	s := b.intercept("ada", "svc/till", "--port", ada.at(8080))
	b.answers("ada", b.client(false, false), till)
	all := b.intercepts()
	if len(all) != 1 {
		b.Fatalf("Intercepts: %v", all)
	}
	began := time.Now()
	if err := b.objectClient().Delete(context(), all[0].GetName(), meta.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
	b.soon("revoked: the app answers", b.until("app", till), time.Second)
	<-s.ended
	b.Logf("bight intercept ends %s after the Intercept was deleted", time.Since(began).Round(time.Millisecond))
	if code := s.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(s.output.String(), "was deleted, by bight intercept leave") {
		b.Errorf("exit code %d\n%s", code, s.output)
	}
	if left := b.intercepts(); len(left) > 0 {
		b.Errorf("there is %v", left)
	}
}

// nodeAgents are the processes of this cluster's node agents, as processes has them: there
// may be another cluster on the machine.
func (b *bay) nodeAgents() []string {
	b.Helper()
	pods, err := client.CoreV1().Pods("bight-system").List(context(), meta.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return slices.DeleteFunc(processes(b.T, "/srv/app/bight\x00node"), func(process string) bool {
		file, _, _ := strings.Cut(process, " ")
		cgroup, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cgroup"))
		return err != nil || !slices.ContainsFunc(pods.Items, func(p core.Pod) bool { return strings.Contains(string(cgroup), string(p.UID)) })
	})
}

func testOthersKilledNodeAgent(b *bay) {
	ada := b.laptop("ada")
	s := b.intercept("ada", "svc/till", "--port", ada.at(8080))
	b.answers("ada", b.client(false, false), till)
	killed := time.Now()
	b.killAgents()
	began := time.Now()
	b.Logf("the agent has ended %s after SIGKILL", began.Sub(killed).Round(time.Microsecond))
	var longest time.Duration
	for range 50 {
		asked := time.Now()
		a, err := b.ask(b.client(false, false), till)
		// What was on its way to the agent when it was killed is cut.
		if (err != nil || a.code != 200) && asked.Sub(began) > 10*time.Millisecond {
			b.Errorf("%s after the agent was killed: %+v, %v", time.Since(began).Round(time.Millisecond), a, err)
		}
		longest = max(longest, time.Since(asked))
	}
	b.Logf("50 requests at once after the agent was killed; the slowest took %s", longest.Round(time.Millisecond))
	b.eventually("the laptop answers again", func() error {
		a, err := b.ask(b.client(false, false), till)
		if err != nil {
			b.Errorf("while the agent comes back: %v", err)
		}
		if a.who != "ada" {
			return errors.New("it does not")
		}
		return nil
	})
	b.Logf("the laptop answers again after %s", time.Since(began).Round(time.Millisecond))
	b.leave(s)
}

// testOthersReplacedNodeAgent has the node agents end as they do for another release of Bight:
// what a laptop is about to answer is answered.
func testOthersReplacedNodeAgent(b *bay) {
	came, taken := make(chan struct{}, 4), make(chan struct{})
	ada := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			came <- struct{}{}
			select {
			case <-taken:
			case <-r.Context().Done(): // it is aborted
			}
		}
		w.Header().Set("X-Who", "ada")
	}))
	defer ada.Close()
	s := b.intercept("ada", "svc/till", "-v", "--port", fmt.Sprint(ada.Listener.Addr().(*net.TCPAddr).Port, ":8080"))
	b.answers("ada", b.client(false, false), till)
	answers := make(chan error, cap(came))
	for range cap(answers) {
		c := b.client(false, false)
		go func() {
			response, err := c.Post(till, "text/plain", strings.NewReader("an order"))
			if err == nil {
				if _, err = io.Copy(io.Discard, response.Body); err == nil && response.Header.Get("X-Who") != "ada" {
					err = fmt.Errorf("%s by %q", response.Status, response.Header.Get("X-Who"))
				}
				_ = response.Body.Close()
			}
			answers <- err
		}()
	}
	for range cap(came) {
		<-came
	}
	lost := func() int { return strings.Count(s.output.String(), "intercept is not in force") }
	before, began := lost(), time.Now()
	if err := client.CoreV1().Pods("bight-system").DeleteCollection(context(), meta.DeleteOptions{}, meta.ListOptions{LabelSelector: "app.kubernetes.io/name=bight-node"}); err != nil {
		b.Fatal(err)
	}
	b.eventually("the agent has taken the rule back", func() error {
		if lost() == before {
			return errors.New("it has not")
		}
		return nil
	})
	close(taken)
	for range cap(answers) {
		if err := <-answers; err != nil {
			b.Errorf("a request that was at the laptop when the agent was told to end: %v", err)
		}
	}
	b.Logf("all requests were answered %s after the agent was told to end", time.Since(began).Round(time.Millisecond))
	b.Logf("the laptop answers again %s after that", b.until("ada", till).Round(time.Millisecond))
	b.leave(s)
}

// killAgents kills the node agents, and returns when their sockets are closed.
func (b *bay) killAgents() {
	b.Helper()
	agents := b.nodeAgents()
	if len(agents) == 0 {
		b.Fatal("no node agent runs")
	}
	for _, agent := range agents {
		var pid int
		if _, err := fmt.Sscanf(agent, "/proc/%d/", &pid); err != nil {
			b.Fatal(err)
		}
		killAndWait(b.T, pid)
	}
}

// killAndWait kills a process of somebody else, and returns when its sockets are closed.
func killAndWait(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int((30 * time.Second).Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			t.Fatalf("process %d does not end: %v", pid, err)
		}
		return
	}
}

func testOthersHostNetwork(b *bay) {
	ns := b.namespace + "-host"
	b.vacate(ns)
	if _, err := client.CoreV1().Namespaces().Create(context(), &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: ns}}, meta.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := client.CoreV1().Namespaces().Delete(context(), ns, deleteNow()); err != nil {
			b.Error(err)
		}
	})
	from := client.AppsV1().Deployments(b.namespace)
	d, err := from.Get(context(), tillNamed, meta.GetOptions{})
	if err != nil {
		b.Fatal(err)
	}
	spec := core.PodSpec{HostNetwork: true, Containers: []core.Container{{
		Name: "host", Image: d.Spec.Template.Spec.Containers[0].Image, Env: []core.EnvVar{{Name: "OFFSET", Value: "21000"}},
		Ports: []core.ContainerPort{{Name: "http", ContainerPort: 29080}},
	}}}
	host := &apps.Deployment{ObjectMeta: meta.ObjectMeta{Name: "host"}, Spec: apps.DeploymentSpec{
		Replicas: ptr.To(int32(1)), Selector: &meta.LabelSelector{MatchLabels: map[string]string{"app": "host"}},
		Template: core.PodTemplateSpec{ObjectMeta: meta.ObjectMeta{Labels: map[string]string{"app": "host"}}, Spec: spec},
	}}
	if _, err := client.AppsV1().Deployments(ns).Create(context(), host, meta.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	b.eventually("it runs", func() error {
		d, err := client.AppsV1().Deployments(ns).Get(context(), "host", meta.GetOptions{})
		if err == nil && d.Status.ReadyReplicas != 1 {
			err = errors.New("not yet")
		}
		return err
	})
	_, said, code := b.bight("intercept", "deploy/host", "--port", "1", "-n", ns)
	if code != 1 || !strings.Contains(said, "no way into the pod") || !strings.Contains(said, "hostNetwork") {
		b.Errorf("exit code %d\n%s", code, said)
	}
}

func testUninstall(b *bay) {
	ada := b.laptop("ada")
	b.intercept("ada", "svc/till", "--port", ada.at(8080))
	agents := b.nodeAgents()
	if _, errs, code := b.bight("uninstall"); code != 0 {
		b.Fatalf("uninstall: exit code %d\n%s", code, errs)
	}
	b.answers("app", b.client(false, false), till)
	d, err := b.cluster().Dynamic()
	if err != nil {
		b.Fatal(err)
	}
	for _, r := range []schema.GroupVersionResource{
		{Version: "v1", Resource: "namespaces"}, {Group: "apps", Version: "v1", Resource: "daemonsets"},
		{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"},
		{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingadmissionpolicies"},
		{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingadmissionpolicybindings"},
	} {
		list, err := d.Resource(r).List(context(), meta.ListOptions{LabelSelector: "app.kubernetes.io/part-of=bight,app.kubernetes.io/managed-by=bight-install"})
		if err != nil {
			b.Fatal(err)
		}
		for _, left := range list.Items {
			b.Errorf("%s %s is left", r.Resource, left.GetName())
		}
	}
	for _, left := range processes(b.T, "/srv/app/bight\x00node") {
		if slices.Contains(agents, left) {
			b.Errorf("there is %v", left)
		}
	}
	_, errs, code := b.bight("uninstall")
	if code != 0 || !strings.Contains(errs, "nothing of Bight is installed") {
		b.Errorf("uninstall again: exit code %d\n%s", code, errs)
	}
}
