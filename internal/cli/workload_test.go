package cli

import (
	"strings"
	"testing"

	core "k8s.io/api/core/v1"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/steer"
)

func TestAPodIsASubjectIfALabelTellsItFromOthers(t *testing.T) {
	named := func(name string) func(*core.Pod) { return func(p *core.Pod) { p.Name = name } }
	label := func(value string) func(*core.Pod) {
		return func(p *core.Pod) { p.Labels["statefulset.kubernetes.io/pod-name"] = value }
	}
	for _, tt := range []struct {
		name string
		pod  core.Pod
		want string
	}{
		{"of a StatefulSet", ownedPod("StatefulSet", "db", named("db-0"), label("db-0")), ""},
		{"with another's label", ownedPod("StatefulSet", "db", named("db-0"), label("db-1")), "statefulset/db"},
		{"of a Deployment", ownedPod("ReplicaSet", "till-7d9f", named("till-7d9f-x2x4z")), "no label tells pod till-7d9f-x2x4z from others, as statefulset.kubernetes.io/pod-name does those of a StatefulSet: name what it is a pod of, deployment/till"},
		{"of nothing", ownedPod("Job", "once", named("once-x")), "name a workload"},
	} {
		err := alone(&tt.pod)
		if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || exitCode(t.Context(), err) != exitUsage) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestKindsAreWrittenAsKubectlWritesThem(t *testing.T) {
	for written, want := range map[string]string{
		"deploy": "deployment", "Deployment": "deployment", "deployment.apps": "deployment", "deployments.v1.apps": "deployment",
		"STS": "statefulset", "daemonset.apps": "daemonset", "svc": "service", "po": "pod", "job": "job", "": "",
	} {
		if got := kindOf(written); got != want {
			t.Errorf("%s: got %q, want %q", written, got, want)
		}
	}
}

func TestAWrongHeaderIsSaidOnce(t *testing.T) {
	cart := &app.Service{Name: "cart", Ports: []app.Port{{Name: "http", Number: 8080, Protocol: app.HTTP}}}
	for want, flags := range map[string]ruleFlags{"--header": {headers: []string{"x-dev"}}, "--path": {path: "x"}} {
		_, err := flags.rule(&bridge.Bridge{}, cart, "", steer.Intercept)
		if exitCode(t.Context(), err) != exitUsage || strings.Count(err.Error(), want+" \"") != 1 || strings.Count(err.Error(), want+" x: ") != 0 || strings.Count(err.Error(), want+" x-dev: ") != 0 {
			t.Errorf("%s: %v", want, err)
		}
	}
}
