//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	appsclient "k8s.io/client-go/kubernetes/typed/apps/v1"
	"k8s.io/utils/ptr"
)

// testOthersNetworkAlone names no workload where there are those of others alone, in the
// directory of another app's source and in an empty one.
func testOthersNetworkAlone(b *bay) {
	b = b.inOpenNamespace()
	tool, pod := b.program("tool"), b.tillPods()[0].Name
	empty := b.on(b.T)
	empty.dir, empty.namespace = b.TempDir(), b.namespace
	for name, from := range map[string]*bay{"source": b, "empty": empty} {
		out, errs, code := from.run("--", tool, "get", "http://till:8080/")
		if code != 0 || !strings.HasPrefix(out, "app HTTP/1.1 "+pod) || !strings.Contains(errs, "a pod of deployment/till leads into namespace "+b.namespace) {
			b.Errorf("%s: exit code %d, %q\n%s", name, code, out, errs)
		}
		out, errs, code = from.run("--", "sh", "-c", "echo GREETING=$GREETING")
		if code != 0 || out != "GREETING=\n" {
			b.Errorf("%s: the environment: exit code %d, %q\n%s", name, code, out, errs)
		}
		from.shell("http://till:8080/", pod)
		from.refused(refusal{code: 4, says: []string{`nothing that bight up deployed is in namespace \S+ \(context bight\); did you mean deployment/till, which somebody else deployed\?`}},
			"env", "till", "-n", b.namespace)
	}
	b.noIntercepts(time.Second)
	if all := b.tillPods()[0].Spec.EphemeralContainers; len(all) > 0 {
		b.Errorf("there is %s", all[0].Name)
	}
}

// testOthersOnePod is about one pod of two of a StatefulSet.
func testOthersOnePod(b *bay) {
	d, err := client.AppsV1().Deployments(b.namespace).Get(context(), tillNamed, meta.GetOptions{})
	if err != nil {
		b.Fatal(err)
	}
	labels := map[string]string{"app": "vault"}
	set := &apps.StatefulSet{ObjectMeta: meta.ObjectMeta{Name: "vault"}, Spec: apps.StatefulSetSpec{
		Replicas: ptr.To[int32](2), Selector: &meta.LabelSelector{MatchLabels: labels}, Template: d.Spec.Template, PodManagementPolicy: apps.ParallelPodManagement,
	}}
	set.Spec.Template.Labels = labels
	sets := client.AppsV1().StatefulSets(b.namespace)
	if _, err := sets.Create(context(), set, meta.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := sets.Delete(context(), "vault", deleteNow()); err != nil {
			b.Error(err)
		}
	})
	at := map[string]string{}
	b.eventually("both pods are ready", func() error {
		list, err := client.CoreV1().Pods(b.namespace).List(context(), meta.ListOptions{LabelSelector: "app=vault"})
		if err != nil {
			return err
		}
		for _, p := range list.Items {
			if len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].Ready {
				at[p.Name] = "http://" + p.Status.PodIP + ":8080/"
			}
		}
		if len(at) != 2 {
			return fmt.Errorf("there is %v", at)
		}
		return nil
	})
	for name := range at {
		if out, errs, code := b.run("pod/"+name, "--", "sh", "-c", "echo $HOSTNAME"); code != 0 || out != name+"\n" {
			b.Errorf("pod %s: exit code %d, %q\n%s", name, code, out, errs)
		}
	}
	ada := b.laptop("ada")
	s := b.intercept("ada", "pod/vault-1", "--port", ada.at(8080))
	b.answers("ada", b.client(false, false), at["vault-1"])
	b.answers("app", b.client(false, false), at["vault-0"])
	b.eventually("the list has it", func() error { // as soon as the agent has written it down
		if list := b.list(); len(list) != 1 || list[0].Service != "pod/vault-1" || list[0].Pods != 1 || list[0].Of != 1 {
			return fmt.Errorf("it is %+v", list)
		}
		return nil
	})
	b.leave(s)
	b.answers("app", b.client(false, false), at["vault-1"])
	if out, errs, _ := b.bight("__complete", "run", "-n", b.namespace, "pod/"); !strings.HasPrefix(out, "pod/vault-0\npod/vault-1\n:") {
		b.Errorf("pod/ is completed by %q\n%s", out, errs)
	}
}

// testNothingRuns has a workload whose process can't be started, and one that is scaled
// to 0: env says what their spec gives, on either way into pods.
func testNothingRuns(b *bay) {
	d, err := client.AppsV1().Deployments(b.namespace).Get(context(), tillNamed, meta.GetOptions{})
	if err != nil {
		b.Fatal(err)
	}
	labels := map[string]string{"app": "broken"}
	template := d.Spec.Template
	template.Labels = labels
	c := &template.Spec.Containers[0]
	c.Command, c.ReadinessProbe = []string{"/no-such-program"}, nil
	c.Env = append(c.Env, core.EnvVar{Name: "BOTH", Value: "$(GREETING), $(API_KEY)"},
		core.EnvVar{Name: "POD", ValueFrom: &core.EnvVarSource{FieldRef: &core.ObjectFieldSelector{FieldPath: "metadata.name"}}})
	broken := &apps.Deployment{ObjectMeta: meta.ObjectMeta{Name: "broken"}, Spec: apps.DeploymentSpec{
		Replicas: ptr.To[int32](1), Selector: &meta.LabelSelector{MatchLabels: labels}, Template: template,
	}}
	deployments := client.AppsV1().Deployments(b.namespace)
	if _, err := deployments.Create(context(), broken, meta.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := deployments.Delete(context(), "broken", deleteNow()); err != nil {
			b.Error(err)
		}
	})
	pod := ""
	b.eventually("its process could not be started", func() error {
		list, err := client.CoreV1().Pods(b.namespace).List(context(), meta.ListOptions{LabelSelector: "app=broken"})
		if err != nil {
			return err
		}
		if len(list.Items) != 1 || len(list.Items[0].Status.ContainerStatuses) != 1 || list.Items[0].Status.ContainerStatuses[0].LastTerminationState.Terminated == nil {
			return fmt.Errorf("there is %d", len(list.Items))
		}
		pod = list.Items[0].Name
		return nil
	})
	const all = "API_KEY=t-0815\nBOTH='good evening, t-0815'\nGRACE=yes\nGREETING='good evening'\nOFFSET=0\n"
	env := func(want string, says ...string) {
		b.Helper()
		began := time.Now()
		out, errs, code := b.bight("env", "deploy/broken", "-n", b.namespace)
		if code != 0 || out != want {
			b.Errorf("exit code %d, %q, want %q\n%s", code, out, want, errs)
		}
		for _, text := range says {
			if !strings.Contains(errs, text) {
				b.Errorf("it does not say %q:\n%s", text, errs)
			}
		}
		b.Logf("it took %s", time.Since(began).Round(time.Millisecond))
	}
	env(all+"POD="+pod+"\n", "no pod that runs", "the spec of pod "+pod+" gives to container till", "of its image")
	for _, args := range [][]string{{"run", "deploy/broken", "--", "true"}, {"intercept", "deploy/broken", "--port", "1"}} {
		b.refused(refusal{code: 1, says: []string{`no pod that runs`, `kubectl -n \S+ logs ` + pod + ` -c till --previous`}}, inNamespace(b.namespace, args)...)
	}
	p, err := client.CoreV1().Pods(b.namespace).Get(context(), pod, meta.GetOptions{})
	if err != nil || len(p.Spec.EphemeralContainers) > 0 {
		b.Errorf("there is %+v, %v", p.Spec.EphemeralContainers, err)
	}
	if err := scaleTo(deployments, "broken", 0); err != nil {
		b.Fatal(err)
	}
	b.eventually("it has no pods", func() error {
		list, err := client.CoreV1().Pods(b.namespace).List(context(), meta.ListOptions{LabelSelector: "app=broken"})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("there is %s", list.Items[0].Name)
		}
		return err
	})
	env(all, "has no pods", "the spec of deployment/broken gives", "left out, since it is not known: POD (there is no pod to say its metadata.name)")
}

func scaleTo(deployments appsclient.DeploymentInterface, name string, replicas int) error {
	_, err := deployments.Patch(context(), name, types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas), meta.PatchOptions{})
	return err
}
