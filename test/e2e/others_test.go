//go:build e2e

package e2e

import (
	stdcontext "context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/bridge/permit"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/steer"
)

const (
	till      = "http://till:8080/"
	tillNamed = "till"
)

// TestWorkloadsOfOthers joins this machine to a workload that Bight did not deploy,
// by the agents of the nodes, from their installation to their end.
func TestWorkloadsOfOthers(t *testing.T) {
	b := newBay(t)
	b.deployTill(b.namespace)
	part := func(name string, f func(*bay)) {
		t.Run(name, func(t *testing.T) { f(b.on(t)) })
	}
	t.Cleanup(func() {
		if said, errs, code := b.bight("uninstall"); code != 0 {
			t.Errorf("uninstall: exit code %d\n%s%s", code, said, errs)
		}
	})
	part("EphemeralContainer", testEphemeralContainer)
	part("NotInstalled", testNotInstalled)
	part("Install", testInstall)
	part("Environment", testOthersEnvironment)
	part("Run", testOthersRun)
	part("NetworkAlone", testOthersNetworkAlone)
	part("Direct", func(b *bay) { b.goesDirect("svc/till") })
	part("WithoutANetwork", testOthersWithoutANetwork)
	part("EveryRequest", testOthersEveryRequest)
	part("ByHeader", testOthersByHeader)
	part("IPv6", func(b *bay) { b.testBySix(tillNamed, "svc/till") })
	part("OnePod", testOthersOnePod)
	part("NothingRuns", testNothingRuns)
	part("Rights", testOthersRights)
	part("EngageAndLeaveUnderLoad", testOthersUnderLoad)
	part("Replicas", testOthersReplicas)
	part("KilledLaptop", testOthersKilledLaptop)
	part("NetworkCut", testOthersNetworkCut)
	part("Revoked", testOthersRevoked)
	part("KilledNodeAgent", testOthersKilledNodeAgent)
	part("ReplacedNodeAgent", testOthersReplacedNodeAgent)
	part("HostNetwork", testOthersHostNetwork)
	part("Uninstall", testUninstall)
}

// deployTill runs the image of cart as any other tool would deploy it: without the
// agent, with a Service that leads to the process.
func (b *bay) deployTill(namespace string) {
	b.Helper()
	cart, err := client.AppsV1().Deployments(b.namespace).Get(context(), "cart", meta.GetOptions{})
	if err != nil {
		b.Fatal(err)
	}
	labels := map[string]string{"app": tillNamed}
	from := cart.Spec.Template.Spec
	secret := &core.Secret{ObjectMeta: meta.ObjectMeta{Name: tillNamed}, StringData: map[string]string{"key": "t-0815"}}
	deployment := &apps.Deployment{
		ObjectMeta: meta.ObjectMeta{Name: tillNamed},
		Spec: apps.DeploymentSpec{
			Selector: &meta.LabelSelector{MatchLabels: labels},
			Template: core.PodTemplateSpec{
				ObjectMeta: meta.ObjectMeta{Labels: labels},
				Spec: core.PodSpec{
					SecurityContext: from.SecurityContext,
					Volumes:         []core.Volume{{Name: "secret", VolumeSource: core.VolumeSource{Secret: &core.SecretVolumeSource{SecretName: tillNamed}}}},
					Containers: []core.Container{{
						Name: tillNamed, Image: from.Containers[0].Image, SecurityContext: from.Containers[0].SecurityContext,
						Env: []core.EnvVar{
							{Name: "OFFSET", Value: "0"}, {Name: "GREETING", Value: "good evening"}, {Name: "GRACE", Value: "yes"},
							{Name: "API_KEY", ValueFrom: &core.EnvVarSource{SecretKeyRef: &core.SecretKeySelector{LocalObjectReference: core.LocalObjectReference{Name: tillNamed}, Key: "key"}}},
						},
						Ports:        []core.ContainerPort{{Name: "http", ContainerPort: 8080}, {Name: "raw", ContainerPort: 7000}},
						VolumeMounts: []core.VolumeMount{{Name: "secret", MountPath: "/etc/till"}},
						ReadinessProbe: &core.Probe{ProbeHandler: core.ProbeHandler{
							HTTPGet: &core.HTTPGetAction{Path: "/healthz", Port: intstr.FromString("http")},
						}, PeriodSeconds: 1},
					}},
				},
			},
		},
	}
	service := &core.Service{
		ObjectMeta: meta.ObjectMeta{Name: tillNamed},
		Spec: core.ServiceSpec{Selector: labels, Ports: []core.ServicePort{
			{Name: "http", Port: 8080, TargetPort: intstr.FromString("http")},
			{Name: "tcp-raw", Port: 7000, TargetPort: intstr.FromInt32(7000)},
		}},
	}
	if _, err := client.CoreV1().Secrets(namespace).Create(context(), secret, meta.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	if _, err := client.AppsV1().Deployments(namespace).Create(context(), deployment, meta.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	if _, err := client.CoreV1().Services(namespace).Create(context(), service, meta.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	url := tillIn(namespace)
	b.eventually(url+" answers", func() error {
		a, err := b.ask(b.client(false, false), url)
		if err == nil && a.who != "app" {
			err = fmt.Errorf("%+v", a)
		}
		return err
	})
}

// tillIn is where till answers, from whatever namespace it is asked.
func tillIn(namespace string) string { return "http://till." + namespace + ":8080/" }

// tillPods are the running pods of till.
func (b *bay) tillPods() []core.Pod {
	b.Helper()
	list, err := client.CoreV1().Pods(b.namespace).List(context(), meta.ListOptions{LabelSelector: "app=" + tillNamed})
	if err != nil {
		b.Fatal(err)
	}
	return slices.DeleteFunc(list.Items, func(p core.Pod) bool { return p.DeletionTimestamp != nil })
}

// objectsOf are the Intercepts of the namespace.
func (b *bay) intercepts() []unstructured.Unstructured {
	b.Helper()
	list, err := b.objectClient().List(context(), meta.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return list.Items
}

func (b *bay) cluster() *kube.Cluster {
	b.Helper()
	cluster, err := kube.Load(kube.Options{Namespace: b.namespace})
	if err != nil {
		b.Fatal(err)
	}
	return cluster
}

func (b *bay) objectClient() dynamic.ResourceInterface {
	b.Helper()
	d, err := b.cluster().Dynamic()
	if err != nil {
		b.Fatal(err)
	}
	return d.Resource(v1alpha1.Intercepts()).Namespace(b.namespace)
}

// noIntercepts waits until there is none.
func (b *bay) noIntercepts(limit time.Duration) {
	b.Helper()
	began := time.Now()
	b.eventually("no Intercept is left", func() error {
		if all := b.intercepts(); len(all) > 0 {
			return fmt.Errorf("there is %s", all[0].GetName())
		}
		return nil
	})
	b.soon("no Intercept is left", time.Since(began), limit)
}

// testNotInstalled has a user who may not add ephemeral containers either.
func testNotInstalled(b *bay) {
	b.grant("reader", rbac.PolicyRule{APIGroups: []string{"", "apps"}, Resources: []string{"pods", "services", "deployments"}, Verbs: []string{"get", "list", "watch"}})
	reader := as(b.T, "reader")
	for _, args := range [][]string{
		{"intercept", "svc/till", "--port", "1", "--kubeconfig", reader}, {"run", "deploy/till", "--kubeconfig", reader, "--", "true"},
		{"env", "deployment/till", "--kubeconfig", reader},
	} {
		b.refused(refusal{code: 4, says: []string{`no node agents`, `bight install`, `patch pods/ephemeralcontainers in namespace ` + b.namespace}}, inNamespace(b.namespace, args)...)
	}
}

func testInstall(b *bay) {
	out, errs, code := b.bight("install", "--dry-run")
	if code != 0 || !strings.Contains(out, "kind: DaemonSet") || !strings.Contains(out, "kind: CustomResourceDefinition") {
		b.Errorf("--dry-run: exit code %d\n%s%s", code, out, errs)
	}
	b.refused(refusal{code: 3, says: []string{`create customresourcedefinitions`, `patch daemonsets.apps bight-node in namespace bight-system`}, env: []string{"KUBECONFIG=" + as(b.T, "nobody")}}, "install")
	began := time.Now()
	_, errs, code = b.bight("install")
	if code != 0 || !strings.Contains(errs, "created daemonset/bight-node") || !strings.Contains(errs, "ready") {
		b.Fatalf("install: exit code %d\n%s", code, errs)
	}
	b.Logf("installed in %s", time.Since(began).Round(time.Millisecond))
	_, errs, code = b.bight("install")
	if code != 0 || strings.Contains(errs, "created") || strings.Contains(errs, "changed") {
		b.Errorf("install again: exit code %d\n%s", code, errs)
	}
}

func testOthersEnvironment(b *bay) {
	out, errs, code := b.bight("env", "deploy/till", "--all", "-n", b.namespace)
	if code != 0 || !strings.Contains(out, "GREETING='good evening'") || !strings.Contains(out, "API_KEY=t-0815") || !strings.Contains(out, "HOSTNAME="+b.tillPods()[0].Name) {
		b.Errorf("env: exit code %d\n%s%s", code, out, errs)
	}
	b.noIntercepts(time.Second)
}

func testOthersRun(b *bay) {
	tool, pod := b.program("tool"), b.tillPods()[0].Name
	for _, test := range []struct {
		name string
		args []string
		want string
		code int
	}{
		{"Environment", []string{"deploy/till", "--", "sh", "-c", "echo $GREETING, $API_KEY, $HOSTNAME"}, "good evening, t-0815, " + pod + "\n", 0},
		{"Files", []string{"deploy/till", "--", "cat", "/etc/till/key"}, "t-0815", 0},
		{"ShortName", []string{"svc/till", "--", tool, "get", "http://stock:8080/"}, "app HTTP/1.1 stock-", 0},
		{"Itself", []string{"svc/till", "--", tool, "get", till}, "app HTTP/1.1 " + pod, 0},
		{"TCP", []string{"svc/till", "--", tool, "tcp", "cart:7000"}, "app hello\n", 0},
		{"UDP", []string{"svc/till", "--", tool, "udp", "cart:7001"}, "app hello\n", 0},
		{"UnknownName", []string{"svc/till", "--", tool, "dns", "no-such-thing"}, "no such name\n", 1},
		{"ExitCode", []string{"svc/till", "--", "sh", "-c", "exit 7"}, "", 7},
	} {
		b.Run(test.name, func(t *testing.T) {
			b := b.on(t)
			began := time.Now()
			out, errs, code := b.run(test.args...)
			if code != test.code || !strings.HasPrefix(out, test.want) || test.want == "" && out != "" {
				t.Errorf("exit code %d, want %d; stdout %q, want %q; stderr:\n%s", code, test.code, out, test.want, errs)
			}
			t.Logf("it took %s", time.Since(began).Round(time.Millisecond))
		})
	}
	b.noIntercepts(time.Second)
}

// testOthersWithoutANetwork is what runs where a command can't have a network of its
// own: on other systems, that is.
func testOthersWithoutANetwork(b *bay) {
	tool := b.program("tool")
	for _, test := range []struct {
		name    string
		command []string
		want    string
		code    int
	}{
		{"Variables", []string{"sh", "-c", `echo $GREETING, $API_KEY; exec "$0" get http://$CART_SERVICE_HOST:$CART_SERVICE_PORT/`, tool}, "good evening, t-0815\napp HTTP/1.1 cart-", 0},
		{"Proxy", []string{"curl", "-s", "http://stock:8080/"}, "app HTTP/1.1 stock-", 0},
		{"ExitCode", []string{"sh", "-c", "exit 7"}, "", 7},
		{"NoSuchCommand", []string{"no-such-command"}, "", 127},
	} {
		b.Run(test.name, func(t *testing.T) {
			out, errs, code := b.on(t).run(append([]string{"deploy/till", "--network", "proxy", "--"}, test.command...)...)
			if code != test.code || !strings.HasPrefix(out, test.want) || test.want == "" && out != "" {
				t.Errorf("exit code %d, want %d; stdout %q, want %q; stderr:\n%s", code, test.code, out, test.want, errs)
			}
		})
	}
	s := b.background([]string{"WHO=ada"}, "run", "svc/till", "--intercept", "--network", "proxy", "--", b.program("cart"))
	b.until("ada", till)
	b.answers("ada", b.client(false, false), till)
	s.signal(syscall.SIGINT)
	b.answers("app", b.client(false, false), till)

	p := b.background(nil, "connect", "--proxy", "--port", "0", "deploy/till")
	p.says("CART_SERVICE_HOST=127.0.0.1\n")
	at := regexp.MustCompile(`CART_SERVICE_PORT=(\d+)`).FindStringSubmatch(p.output.String())
	if at == nil {
		b.Fatalf("it says %s", p.output)
	}
	if a, err := b.ask(http.DefaultClient, "http://127.0.0.1:"+at[1]+"/"); err != nil || a.who != "app" {
		b.Errorf("through the loopback port: %+v, %v", a, err)
	}
	p.signal(syscall.SIGINT)
	b.noIntercepts(time.Second)
}

// probesReachTheApp waits until kubelet has asked till's process twice more, and checks
// that nothing of it came to a laptop. The process is asked from inside its pod, where
// nothing is steered.
func (b *bay) probesReachTheApp(p *laptop) {
	b.Helper()
	url := "http://" + b.tillPods()[0].Status.PodIP + ":8080/counters"
	probes := func() (int, error) {
		out, errs, code := b.run("deploy/till", "--", "curl", "-s", url)
		all := map[string]int{}
		if err := json.Unmarshal([]byte(out), &all); err != nil || code != 0 {
			return 0, fmt.Errorf("exit code %d, %q, %v: %s", code, out, err, errs)
		}
		return all["probes"], nil
	}
	before, err := probes()
	if err != nil {
		b.Fatal(err)
	}
	b.eventually("kubelet asks the app twice", func() error {
		if now, err := probes(); err != nil || now < before+2 {
			return fmt.Errorf("%d, after %d, %v", now, before, err)
		}
		return nil
	})
	if all, err := p.counters(); err != nil || all["probes"] != 0 {
		b.Errorf("kubelet's probes have come here: %v, %v", all, err)
	}
}

func testOthersEveryRequest(b *bay) {
	ada := b.laptop("ada")
	s := b.intercept("ada", "svc/till", "--port", ada.at(8080))
	for _, http2 := range []bool{false, true} {
		b.answers("ada", b.client(http2, false), till)
	}
	_, said, code := b.bight("intercept", "svc/till", "--port", "1", "-n", b.namespace)
	if code == 0 || !strings.Contains(said, "already intercepts") || !strings.Contains(said, "ada@") {
		b.Errorf("a second one: exit code %d\n%s", code, said)
	}
	b.probesReachTheApp(ada)
	list := b.list()
	if len(list) != 1 || list[0].Service != "service/till" || list[0].Pods != 1 || list[0].State != steer.Active || !strings.Contains(list[0].Owner, "ada@") {
		b.Errorf("the list is %+v", list)
	}
	b.leave(s)
	b.answers("app", b.client(false, false), till)

	raw := b.intercept("ada", "svc/till", "--port", ada.at(7000))
	out, errs, code := b.run("cart", "--", b.program("tool"), "tcp", "till:7000")
	if code != 0 || out != "ada hello\n" {
		b.Errorf("raw: exit code %d, %q\n%s", code, out, errs)
	}
	list = b.list()
	if len(list) != 1 {
		b.Fatalf("the list is %+v", list)
	}
	if out, errs, _ := b.bight("__complete", "intercept", "leave", "-n", b.namespace, ""); !strings.HasPrefix(out, list[0].ID+"\t") {
		b.Errorf("intercept leave is completed by %q, want %s in it\n%s", out, list[0].ID, errs)
	}
	if _, errs, code := b.bight("intercept", "leave", list[0].ID, "-n", b.namespace); code != 0 {
		b.Errorf("intercept leave: exit code %d\n%s", code, errs)
	}
	<-raw.ended
	b.noIntercepts(time.Second)
}

func testOthersByHeader(b *bay) {
	ada, bob := b.laptop("ada"), b.laptop("bob")
	s := b.intercept("ada", "deploy/till", "--port", ada.at(8080), "--header", "x-dev=ada")
	s2 := b.intercept("bob", "svc/till", "--port", bob.at(8080), "--header", "x-dev=bob")
	for _, http2 := range []bool{false, true} {
		c := b.client(http2, true)
		b.answers("app", c, till)
		b.answers("ada", c, till, "x-dev", "ada")
		b.answers("bob", c, till, "x-dev", "bob")
		b.answers("app", c, till, "x-dev", "eve")
	}
	b.leave(s, s2)
	b.noIntercepts(time.Second)
}

func testOthersRights(b *bay) {
	b.grant("looker", rbac.PolicyRule{APIGroups: []string{"", "apps"}, Resources: []string{"pods", "services", "deployments"}, Verbs: []string{"get", "list", "watch"}})
	b.bind("editor", "edit")
	looker, editor := as(b.T, "looker"), as(b.T, "editor")
	b.refused(refusal{code: 3, says: []string{`looker`, `create intercepts.bight.dev`, b.namespace, `resources: \[intercepts\], verbs: \[create\]`, `ClusterRole bight-intercept`}},
		inNamespace(b.namespace, []string{"run", "deploy/till", "--kubeconfig", looker, "--", "true"})...)
	out, errs, code := b.run("deploy/till", "--kubeconfig", editor, "--", "sh", "-c", "echo $GREETING")
	if code != 0 || out != "good evening\n" {
		b.Errorf("who may edit: exit code %d\n%s%s", code, out, errs)
	}
	for want, args := range map[string][]string{
		"deploy/till\n": {"run", "-n", b.namespace, "deploy/"},
		"till\n":        {"env", "-n", b.namespace, "deploy/till", "--container", ""},
	} {
		if out, errs, _ := b.bight(append([]string{"__complete"}, args...)...); !strings.Contains("\n"+out, "\n"+want) {
			b.Errorf("%q is completed by %q, want %q in it\n%s", args, out, want, errs)
		}
	}
	for _, test := range []struct {
		name string
		args []string
		code int
		says []string
	}{
		{"NoSuchWorkload", []string{"env", "deploy/tll"}, 4, []string{`there is no deployment tll in namespace \S+ \(context bight\); did you mean deployment/till\?`}},
		{"NearNameAlone", []string{"env", "tll"}, 4, []string{`did you mean deployment/till, which somebody else deployed\?`}},
		{"AsKubectlPrintsIt", []string{"env", "deployment.apps/tll"}, 4, []string{`there is no deployment tll in`}},
		{"AnotherKind", []string{"intercept", "sts/till", "--port", "1"}, 4, []string{`did you mean deployment/till\?`}},
		{"NoSuchContainer", []string{"env", "deploy/till", "-c", "sidecar"}, 4, []string{`no such container; there is till`}},
		{"NoSuchKind", []string{"env", "job/till"}, 2, []string{`job/till`, `deployment/NAME`}},
		{"NoSuchPod", []string{"env", "pod/till-0"}, 4, []string{`there is no pod till-0 in namespace \S+ \(context bight\)`}},
		{"PodLikeOthers", []string{"env", "pod/" + b.tillPods()[0].Name}, 2, []string{`no label tells pod till-\S+ from others, .*name what it is a pod of, deployment/till`}},
		{"NoSuchPort", []string{"intercept", "svc/till", "--port", "1:81"}, 4, []string{`service/till has no port 81; there is 7000 \(tcp-raw\), 8080 \(http\)`}},
		{"HeaderOnTCP", []string{"intercept", "svc/till", "--port", "1:7000", "--header", "x-dev=ada"}, 2, []string{`speaks plain TCP`}},
		{"Replace", []string{"run", "svc/till", "--replace", "--", "true"}, 2, []string{`--replace`, `bight up`}},
	} {
		b.Run(test.name, func(t *testing.T) {
			b.on(t).refused(refusal{code: test.code, says: test.says}, inNamespace(b.namespace, test.args)...)
		})
	}
	// Nobody can say that an Intercept is somebody else's.
	forged := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": v1alpha1.GroupVersion().String(), "kind": "Intercept", "metadata": map[string]any{"name": "forged"},
		"spec": map[string]any{"owner": "eve", "selector": map[string]any{"app": tillNamed}, "tokenHash": strings.Repeat("0", 64)},
	}}
	if _, err := b.objectClient().Create(context(), forged, meta.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "spec.owner is eve") {
		b.Errorf("an Intercept of another owner: %v", err)
	}
	b.noIntercepts(time.Second)
}

// joinTill intercepts till without a program of its own, until ctx ends.
func (b *bay) joinTill(ctx stdcontext.Context, id string, port int, engaged func()) error {
	cluster := b.cluster()
	owner, err := permit.Owner(ctx, cluster)
	if err != nil {
		return err
	}
	spec := v1alpha1.InterceptSpec{
		Owner: owner, From: "tester@here", Workload: "service/till", Selector: map[string]string{"app": tillNamed},
		Rule: &v1alpha1.Rule{Port: 8080, Protocol: "http", Mode: string(steer.Intercept)},
	}
	p, err := permit.Ask(ctx, cluster, b.namespace, id, spec, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer p.Close()
	way := &bridge.Bridge{
		Cluster: cluster, Namespace: b.namespace, App: "till", Selector: "app=" + tillNamed, Services: []string{"service/till"},
		Service: func(*core.Pod) string { return "service/till" }, Agent: func(*core.Pod) (int, bool) { return 0, true },
		Enter: p.Enter, Token: p.Token(), Owner: owner, Say: func(string) {}, Log: slog.New(slog.DiscardHandler),
	}
	return way.Intercept(ctx, *p.Rule(), port, func(string) { engaged() })
}

func testOthersUnderLoad(b *bay) {
	ada := b.laptop("ada")
	b.load("/start?url="+strings.TrimSuffix(till, "/"), nil)
	began := time.Now()
	var took []time.Duration
	const rounds = 100
	for i := range rounds {
		ctx, leave := stdcontext.WithCancel(context())
		engaged, failed, asked := make(chan struct{}), make(chan error, 1), time.Now()
		var under sync.WaitGroup
		under.Go(func() {
			failed <- b.joinTill(ctx, fmt.Sprint("round-", i), 8080+ada.offset, func() { close(engaged) })
		})
		select {
		case <-engaged:
		case err := <-failed:
			leave()
			b.Fatalf("round %d: %v", i, err)
		}
		took = append(took, time.Since(asked))
		// The load's connections are from before the rule; a new one is not.
		if a, err := b.ask(b.client(false, false), till); err != nil || a.who != "ada" {
			b.Errorf("round %d: %+v, %v", i, a, err)
		}
		leave()
		under.Wait()
	}
	lasted := time.Since(began)
	var got counts
	b.load("/stop", &got)
	slices.Sort(took)
	b.Logf("%d times engaged (%s at the median, %s at most) and left in %s; %d requests and %d streams, answered %v; slowest request %.1f ms; %d failed",
		rounds, took[rounds/2].Round(time.Millisecond), took[rounds-1].Round(time.Millisecond), lasted.Round(time.Millisecond),
		got.Requests, got.Streams, got.By, got.Slowest, got.Failed)
	if got.Failed > 0 || got.By["app"] == 0 || got.By["app"]+got.By["ada"] != got.Requests+got.Streams {
		b.Errorf("%+v", got)
	}
	b.noIntercepts(time.Second)
}

func testOthersReplicas(b *bay) {
	ada := b.laptop("ada")
	s := b.intercept("ada", "svc/till", "--port", ada.at(8080))
	scale := func(n int) {
		b.Helper()
		patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, n)
		if _, err := client.AppsV1().Deployments(b.namespace).Patch(context(), tillNamed, types.MergePatchType, []byte(patch), meta.PatchOptions{}); err != nil {
			b.Fatal(err)
		}
		b.eventually("the pods are ready, and no others there", func() error {
			list, err := client.CoreV1().Pods(b.namespace).List(context(), meta.ListOptions{LabelSelector: "app=" + tillNamed})
			if err != nil {
				return err
			}
			ready := 0
			for _, p := range list.Items {
				if len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].Ready {
					ready++
				}
			}
			if ready != n || len(list.Items) != n {
				return fmt.Errorf("%d of %d are", ready, len(list.Items))
			}
			return nil
		})
	}
	scale(3)
	began := time.Now()
	b.eventually("three pods are covered", func() error {
		if list := b.list(); len(list) != 1 || list[0].Pods != 3 {
			return fmt.Errorf("%+v", list)
		}
		return nil
	})
	b.soon("scaled: three pods are covered", time.Since(began), 6*time.Second) // as the status says, every 5 s
	for range 6 {
		b.answers("ada", b.client(false, false), till)
	}
	scale(1)
	b.eventually("one pod is left", func() error {
		// The requests are those of all three, which had the six.
		if list := b.list(); len(list) != 1 || list[0].Pods != 1 || list[0].Of != 1 || list[0].Counters.Taken() < 6 {
			return fmt.Errorf("%+v", list)
		}
		return nil
	})
	b.leave(s)
	if said := s.output.String(); strings.Contains(said, "the connection to the cluster is lost") {
		b.Errorf("of pods that go it says:\n%s", said)
	}
	b.answers("app", b.client(false, false), till)
}
