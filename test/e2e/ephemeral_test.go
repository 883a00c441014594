//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// testEphemeralContainer enters pods that Bight did not deploy where nothing of Bight
// is installed.
func testEphemeralContainer(b *bay) {
	for _, test := range []struct {
		name string
		args []string
		says string
	}{
		{"intercept", []string{"intercept", "svc/till", "--port", "1"}, "NET_ADMIN"},
		{"env", []string{"env", "deploy/till"}, "SYS_PTRACE, DAC_READ_SEARCH"},
	} {
		b.Run("PodSecurityRefuses/"+test.name, func(t *testing.T) {
			b.on(t).refused(refusal{code: 3, says: []string{
				`no node agents here`, `no way into the pod till-\S+ by an ephemeral container, which needs user 0 and ` + test.says,
				`namespace ` + b.namespace + ` allows that`, `bight install`, `violates PodSecurity`,
			}}, inNamespace(b.namespace, test.args)...)
		})
	}
	b = b.inOpenNamespace()
	pod := b.tillPods()[0]
	for _, part := range []struct {
		name string
		run  func(*bay)
	}{
		{"Unasked", testGuestUnasked},
		{"NothingRuns", testNothingRuns},
		{"Environment", testGuestEnvironment},
		{"KilledLaptop", testGuestKilled}, // whose container stays for more than a minute
		{"FewRights", testGuestFewRights},
		{"Run", testGuestRun},
		{"EveryRequest", testGuestEveryRequest},
		{"ByHeader", testGuestByHeader},
		{"OneRuleAtATime", testGuestsMeet},
		{"SharedProcesses", testGuestSharedProcesses},
	} {
		b.Run(part.name, func(t *testing.T) {
			inside := b.on(t)
			inside.namespace = b.namespace
			part.run(inside)
		})
	}
	b.eventually("the containers have ended", func() error { return allEnded(b.tillPods()) })
	now := b.tillPods()[0]
	if now.UID != pod.UID || now.Status.ContainerStatuses[0].RestartCount != 0 {
		b.Errorf("pod %s (%s) is %s (%s) now, with %d restarts", pod.Name, pod.UID, now.Name, now.UID, now.Status.ContainerStatuses[0].RestartCount)
	}
}

// inOpenNamespace is a bay with till alone, in a namespace of its own where Pod
// Security is not enforced. Requests still come from the app's.
func (b *bay) inOpenNamespace() *bay {
	b.Helper()
	other := b.on(b.T)
	other.namespace = b.namespace + "-guest"
	b.vacate(other.namespace)
	if _, err := client.CoreV1().Namespaces().Create(context(), &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: other.namespace}}, meta.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := client.CoreV1().Namespaces().Delete(context(), other.namespace, deleteNow()); err != nil {
			b.Error(err)
		}
	})
	b.deployTill(other.namespace)
	return other
}

// interrupt ends intercepts, which is all that list could be asked for elsewhere.
func (b *bay) interrupt(all ...*running) {
	b.Helper()
	for _, s := range all {
		if code := s.signal(syscall.SIGINT); code != 130 {
			b.Errorf("bight intercept ends with %d, want 130:\n%s", code, s.output)
		}
	}
}

// allEnded is nil when all ephemeral containers have, as they should.
func allEnded(pods []core.Pod) error {
	for _, p := range pods {
		for _, s := range p.Status.EphemeralContainerStatuses {
			if s.State.Terminated == nil {
				return fmt.Errorf("%s of %s runs", s.Name, p.Name)
			}
			if t := s.State.Terminated; t.ExitCode != 0 {
				return fmt.Errorf("%s of %s has ended with %d: %s", s.Name, p.Name, t.ExitCode, t.Message)
			}
		}
	}
	return nil
}

// testGuestUnasked names no workload, and none is left with a container.
func testGuestUnasked(b *bay) {
	b.refused(refusal{code: 4, says: []string{`no node agents`, `bight install`, `bight run deployment/till -n ` + b.namespace + ` -- COMMAND`}},
		inNamespace(b.namespace, []string{"run", "--", "true"})...)
	if all := b.tillPods()[0].Spec.EphemeralContainers; len(all) > 0 {
		b.Errorf("there is %s", all[0].Name)
	}
}

func testGuestEnvironment(b *bay) {
	out, errs, code := b.bight("env", "deploy/till", "--all", "-n", b.namespace)
	ended := time.Now()
	if code != 0 || !strings.Contains(out, "GREETING='good evening'") || !strings.Contains(out, "API_KEY=t-0815") || !strings.Contains(out, "HOSTNAME="+b.tillPods()[0].Name) {
		b.Fatalf("env: exit code %d\n%s%s", code, out, errs)
	}
	if !strings.Contains(errs, "an ephemeral container in each pod leads to it (it stays listed in the pod until that is replaced)") {
		b.Errorf("env does not say how it got there:\n%s", errs)
	}
	b.eventually("the container has ended", func() error { return allEnded(b.tillPods()) })
	b.soon("left: the container has ended", time.Since(ended), 20*time.Second)
}

// testGuestFewRights has a user with no more rights than it takes.
func testGuestFewRights(b *bay) {
	b.grant("visitor",
		rbac.PolicyRule{APIGroups: []string{"", "apps"}, Resources: []string{"pods", "services", "deployments"}, Verbs: []string{"get", "list", "watch"}},
		rbac.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods/ephemeralcontainers"}, Verbs: []string{"patch"}},
		rbac.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods/portforward"}, Verbs: []string{"create"}},
	)
	out, errs, code := b.bight("env", "deploy/till", "-n", b.namespace, "--kubeconfig", as(b.T, "visitor"))
	if code != 0 || !strings.Contains(out, "API_KEY=t-0815") {
		b.Errorf("exit code %d\n%s%s", code, out, errs)
	}
}

func testGuestRun(b *bay) {
	tool, pod := b.program("tool"), b.tillPods()[0].Name
	for _, test := range []struct {
		name string
		args []string
		want string
		code int
	}{
		{"Environment", []string{"deploy/till", "--", "sh", "-c", "echo $GREETING, $API_KEY, $HOSTNAME"}, "good evening, t-0815, " + pod + "\n", 0},
		{"Files", []string{"svc/till", "--", "cat", "/etc/till/key"}, "t-0815", 0},
		{"Itself", []string{"svc/till", "--", tool, "get", till}, "app HTTP/1.1 " + pod, 0},
		{"ExitCode", []string{"svc/till", "--", "sh", "-c", "exit 7"}, "", 7},
	} {
		b.Run(test.name, func(t *testing.T) {
			began := time.Now()
			out, errs, code := b.run(test.args...)
			if code != test.code || !strings.HasPrefix(out, test.want) || test.want == "" && out != "" {
				t.Errorf("exit code %d, want %d; stdout %q, want %q; stderr:\n%s", code, test.code, out, test.want, errs)
			}
			t.Logf("it took %s", time.Since(began).Round(time.Millisecond))
		})
	}
}

func testGuestEveryRequest(b *bay) {
	ada, url := b.laptop("ada"), tillIn(b.namespace)
	began := time.Now()
	s := b.intercept("ada", "svc/till", "--port", ada.at(8080))
	b.Logf("in force after %s", time.Since(began).Round(time.Millisecond))
	for _, http2 := range []bool{false, true} {
		b.answers("ada", b.client(http2, false), url)
	}
	b.probesReachTheApp(ada)
	b.interrupt(s)
	b.answers("app", b.client(false, false), url)
}

func testGuestByHeader(b *bay) {
	ada, url := b.laptop("ada"), tillIn(b.namespace)
	s := b.intercept("ada", "deploy/till", "--port", ada.at(8080), "--header", "x-dev=ada")
	for _, http2 := range []bool{false, true} {
		c := b.client(http2, true)
		b.answers("app", c, url)
		b.answers("ada", c, url, "x-dev", "ada")
		b.answers("app", c, url, "x-dev", "eve")
	}
	b.interrupt(s)
	b.answers("app", b.client(false, false), url, "x-dev", "ada")
}

// testGuestsMeet has two users in one pod: the environment is there for both, requests
// are steered by one.
func testGuestsMeet(b *bay) {
	ada := b.laptop("ada")
	s := b.intercept("ada", "svc/till", "--port", ada.at(8080), "--header", "x-dev=ada")
	out, errs, code := b.run("deploy/till", "--", "sh", "-c", "echo $GREETING")
	if code != 0 || out != "good evening\n" {
		b.Errorf("the environment: exit code %d, %q\n%s", code, out, errs)
	}
	_, errs, code = b.bightWith([]string{"BIGHT_USER=bob"}, "intercept", "svc/till", "--port", "1", "--header", "x-dev=bob", "-n", b.namespace)
	if code != 1 || !strings.Contains(errs, "another living process holds the steering rules of this pod") {
		b.Errorf("a second rule: exit code %d\n%s", code, errs)
	}
	b.answers("ada", b.client(false, false), tillIn(b.namespace), "x-dev", "ada")
	b.interrupt(s)
}

func testGuestKilled(b *bay) {
	ada, url := b.laptop("ada"), tillIn(b.namespace)
	s := b.intercept("ada", "svc/till", "--port", ada.at(8080))
	b.answers("ada", b.client(false, false), url)
	s.signal(syscall.SIGKILL)
	b.soon("killed: the app answers", b.until("app", url), silence)
	var again *running
	b.eventually("the lease of the rule is over", func() error { // it is refused up to then
		again = b.background([]string{"BIGHT_USER=ada"}, "intercept", "svc/till", "--port", ada.at(8080))
		ended := false
		b.eventually("it is in force or refused", func() error {
			select {
			case <-again.ended:
				ended = true
				return nil
			default:
			}
			if !strings.Contains(again.output.String(), "in force in ") {
				return errors.New("neither")
			}
			return nil
		})
		if ended {
			return errors.New(again.output.String())
		}
		return nil
	})
	b.answers("ada", b.client(false, false), url)
	b.interrupt(again)
}

// testGuestSharedProcesses has a pod whose containers see each other's processes, and a
// probe that can't be told from other connections.
func testGuestSharedProcesses(b *bay) {
	deployments := client.AppsV1().Deployments(b.namespace)
	d, err := deployments.Get(context(), tillNamed, meta.GetOptions{})
	if err != nil {
		b.Fatal(err)
	}
	labels := map[string]string{"app": "shared"}
	template := d.Spec.Template
	template.Labels, template.Spec.ShareProcessNamespace = labels, ptr.To(true)
	template.Spec.Containers[0].LivenessProbe = &core.Probe{
		ProbeHandler: core.ProbeHandler{TCPSocket: &core.TCPSocketAction{Port: intstr.FromString("http")}}, PeriodSeconds: 1,
	}
	shared := &apps.Deployment{
		ObjectMeta: meta.ObjectMeta{Name: "shared"},
		Spec:       apps.DeploymentSpec{Selector: &meta.LabelSelector{MatchLabels: labels}, Template: template},
	}
	if _, err := deployments.Create(context(), shared, meta.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	var pod core.Pod
	b.eventually("it runs", func() error {
		list, err := client.CoreV1().Pods(b.namespace).List(context(), meta.ListOptions{LabelSelector: "app=shared"})
		if err != nil {
			return err
		}
		if len(list.Items) != 1 || len(list.Items[0].Status.ContainerStatuses) != 1 || !list.Items[0].Status.ContainerStatuses[0].Ready {
			return fmt.Errorf("there is %d", len(list.Items))
		}
		pod = list.Items[0]
		return nil
	})
	ada := b.laptop("ada")
	s := b.intercept("ada", "deploy/shared", "--port", ada.at(8080))
	b.answers("ada", b.client(false, false), "http://"+pod.Status.PodIP+":8080/")
	out, errs, code := b.run("deploy/shared", "--", "sh", "-c", "echo $GREETING, $HOSTNAME")
	if want := "good evening, " + pod.Name + "\n"; code != 0 || out != want {
		b.Errorf("exit code %d, %q, want %q\n%s", code, out, want, errs)
	}
	b.interrupt(s)
}
