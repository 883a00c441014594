package cli

import (
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
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
