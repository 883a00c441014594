//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"

	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	configs "github.com/bightdev/bight/internal/release/config"
	"github.com/bightdev/bight/internal/release/evidence"
)

const tillSettings = "till-settings"

// testReleaseConfig releases nothing but another configuration: it is judged, undone and
// promoted as any version is.
func testReleaseConfig(b *bay) {
	maps := client.CoreV1().ConfigMaps(b.namespace)
	if _, err := maps.Create(context(), &core.ConfigMap{ObjectMeta: meta.ObjectMeta{Name: tillSettings}, Data: map[string]string{"WHO": "mint", "MOOD": "fine"}}, meta.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	patch := []byte(`{"spec":{"revisionHistoryLimit":0,"template":{"spec":{"containers":[{"name":"till","envFrom":[{"configMapRef":{"name":"` + tillSettings + `"}}],
		"env":[{"name":"WHO","$patch":"delete"},{"name":"SLOW","$patch":"delete"}]}]}}}}`)
	if _, err := client.AppsV1().Deployments(b.namespace).Patch(context(), tillNamed, types.StrategicMergePatchType, patch, meta.PatchOptions{}); err != nil {
		b.Fatal(err)
	}
	b.unreleased()
	b.allAnswer("mint")

	start := func(plan, phase string, files map[string]string) {
		b.Helper()
		for name, text := range files {
			b.write("settings/"+name, text)
		}
		b.order("start", tillNamed, "--config", tillSettings+"="+b.dir+"/settings", "--plan", b.plan(plan), "--detach")
		b.reaches(phase)
	}
	b.write("settings/WHO", "mint")
	if _, errs, code := b.bight("release", "start", tillNamed, "-n", b.namespace, "--config", tillSettings+"="+b.dir+"/settings"); code != 2 || !strings.Contains(errs, "runs exactly this already") {
		b.Errorf("the same again: exit code %d\n%s", code, errs)
	}

	// One that is bad is convicted, and what differs is told.
	b.pour()
	start("steps: [{weight: 5, proven: true}]\nkeep: 1s\n", "Undone", map[string]string{"WHO": "weeds", "BROKEN": "yes"})
	r := b.current()
	b.Logf("%s", r.Status.Message)
	if !r.Status.Convicted || r.Spec.Version == "" || !strings.HasSuffix(r.Spec.Version, "with "+tillSettings) {
		b.Errorf("convicted: %v, version %q", r.Status.Convicted, r.Spec.Version)
	}
	var got counts
	b.load("/stop", &got)
	b.eventually("what differs is told", func() error {
		said, errs, code := b.bight("replay", r.Name, "-n", b.namespace, "-o", "json")
		var kept evidence.Bundle
		if code != 0 {
			return fmt.Errorf("exit code %d: %s", code, errs)
		}
		if err := json.Unmarshal([]byte(said), &kept); err != nil {
			return err
		}
		if text := strings.Join(kept.Differs, "\n"); !strings.Contains(text, "ConfigMap "+tillSettings+": BROKEN: +yes") || !strings.Contains(text, "ConfigMap "+tillSettings+": WHO: +weeds") {
			return fmt.Errorf("what differs is\n%s", text)
		}
		return nil
	})
	b.unreleased()
	b.allAnswer("mint")

	// A pod of stable that starts in the middle reads what was there before.
	b.write("settings/BROKEN", "")
	start(fmt.Sprintf(hold, 30), "Held", map[string]string{"WHO": "basil"})
	pods, ended := client.CoreV1().Pods(b.namespace), ""
	for _, p := range b.tillPods() {
		if ended == "" && p.Labels["pod-template-hash"] == b.current().Status.Stable.Hash {
			ended = p.Name
		}
	}
	if err := pods.Delete(context(), ended, meta.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
	b.eventually("both answer, and nobody else", func() error {
		if _, err := pods.Get(context(), ended, meta.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("pod %s is still there: %v", ended, err)
		}
		by := b.shares(50)
		if r := b.current(); r.Status.Stable.Ready != 3 || by["mint"]+by["basil"] != 50 || by["mint"] == 0 || by["basil"] == 0 {
			return fmt.Errorf("%d pods of stable are ready; %v", r.Status.Stable.Ready, by)
		}
		return nil
	})
	b.order("promote", tillNamed, "--timeout", "1m")
	b.reaches("Promoted")
	b.unreleased()
	b.allAnswer("basil")
	if o, err := maps.Get(context(), tillSettings, meta.GetOptions{}); err != nil || o.Data["WHO"] != "mint" {
		b.Errorf("the ConfigMap of before is %+v, %v", o, err)
	}

	// Of those that were made, what no ReplicaSet refers to goes.
	b.eventually("what was convicted is gone, and what runs is not", func() error {
		all, err := maps.List(context(), meta.ListOptions{LabelSelector: configs.Label + "=" + tillNamed})
		if err != nil {
			return err
		}
		if len(all.Items) != 1 || all.Items[0].Data["WHO"] != "basil" || all.Items[0].Data["MOOD"] != "fine" || all.Items[0].Immutable == nil {
			return fmt.Errorf("%d are there: %+v", len(all.Items), all.Items)
		}
		return nil
	})
	b.patchTill(`{"spec":{"revisionHistoryLimit":10}}`)
}

// testReleaseScaled has an autoscaler want more pods in the middle of releases.
func testReleaseScaled(b *bay) {
	least := int32(3)
	scalers := client.AutoscalingV2().HorizontalPodAutoscalers(b.namespace)
	if _, err := scalers.Create(context(), &autoscaling.HorizontalPodAutoscaler{
		ObjectMeta: meta.ObjectMeta{Name: tillNamed},
		Spec: autoscaling.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscaling.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: tillNamed},
			MinReplicas:    &least, MaxReplicas: 4,
		},
	}, meta.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	wants := func(n int32, stable, canary int) {
		b.Helper()
		patch := fmt.Sprintf(`{"spec":{"minReplicas":%d,"maxReplicas":%d}}`, n, max(n, 4))
		if out, err := b.kubectl("patch", "hpa", tillNamed, "-n", b.namespace, "--type", "merge", "-p", patch); err != nil {
			b.Fatal(out, err)
		}
		same := 0
		b.eventually(fmt.Sprintf("%d pods are wanted, and there are %d and %d", n, stable, canary), func() error {
			d, err := client.AppsV1().Deployments(b.namespace).Get(context(), tillNamed, meta.GetOptions{})
			if err != nil {
				return err
			}
			s := b.current().Status
			if *d.Spec.Replicas != n || int(s.Stable.Ready) != stable || int(s.Canary.Ready) != canary || int(s.Stable.Pods) != stable || int(s.Canary.Pods) != canary {
				same = 0
				return fmt.Errorf("%d are wanted; %+v, %+v", *d.Spec.Replicas, s.Stable, s.Canary)
			}
			if same++; same < 5 {
				return fmt.Errorf("it is so %d times", same) // nobody fights about it
			}
			return nil
		})
	}
	b.pour()
	b.release("wide", "strategy: BlueGreen\nkeep: 2m\nsteps: [{weight: 50, pods: 50%, hold: true}]\n", "Held")
	wants(4, 4, 2)
	b.order("resume", tillNamed, "--timeout", "1m")
	b.reaches("Promoted")
	wants(5, 5, 5)
	b.patchPlan("keep: 1s")
	b.unreleased()
	b.unharmed("with an autoscaler")
	b.allAnswer("wide")
	if err := scalers.Delete(context(), tillNamed, meta.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
	b.patchTill(`{"spec":{"replicas":3}}`)
	b.unreleased()
}
