package lifecycle

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/cluster/internal/spec"
	"github.com/bightdev/bight/cluster/internal/supervisor"
)

func TestReportTellsTheTruth(t *testing.T) {
	well := supervisor.NodeStatus{Name: "bight", Ready: true}
	runs := supervisor.Process{Name: "etcd", PID: 7}
	for name, c := range map[string]struct {
		status   *supervisor.Status
		state    string
		problems []string
	}{
		"stopped":  {nil, "stopped", nil},
		"running":  {&supervisor.Status{Ready: true, Nodes: []supervisor.NodeStatus{well}, Components: []supervisor.Process{runs}}, "running", nil},
		"starting": {&supervisor.Status{Stage: "starting etcd", Waiting: "no socket"}, "starting", []string{"no socket"}},
		"failed":   {&supervisor.Status{Stage: "starting etcd", Error: "no disk"}, "failed", []string{"no disk"}},
		"a node away": {&supervisor.Status{Ready: true, Nodes: []supervisor.NodeStatus{well, {Name: "bight-2", Reason: "no network"}}},
			"degraded", []string{"node bight-2: no network"}},
		"a component away": {&supervisor.Status{Ready: true, Components: []supervisor.Process{runs, {Name: "dns", Error: "signal: killed", LastWord: "panic", Log: "/l"}}},
			"degraded", []string{"dns is not running, and is about to be started again: signal: killed: panic; its log is /l"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := MakeReport(&spec.Cluster{Name: "bight"}, c.status)
			if r.State != c.state {
				t.Errorf("got %s, want %s", r.State, c.state)
			}
			if diff := cmp.Diff(append([]string{}, c.problems...), r.Problems); diff != "" {
				t.Error(diff)
			}
			if (r.Err() == nil) != (c.state == "running") {
				t.Errorf("got error %v", r.Err())
			}
			for _, p := range c.problems {
				if c.state != "failed" && !strings.Contains(r.Err().Error(), p) {
					t.Errorf("the error lacks %q: %v", p, r.Err())
				}
			}
		})
	}
}

func TestReportAsJSONHasNoNull(t *testing.T) {
	var b strings.Builder
	r := MakeReport(&spec.Cluster{Name: "dev", RegistryHostPort: 5001, APIHostPort: 6001, Dir: "/s"}, nil)
	if err := r.Write(&b, "json"); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"name": "dev", "state": "stopped", "context": "bight-dev", "server": "https://127.0.0.1:6001", "registry": "localhost:5001",
		"directory": "/s", "egress": false, "dualStack": false, "networkPolicy": "enforced",
		"problems": []any{}, "stages": []any{}, "nodes": []any{}, "components": []any{},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestReportForPeople(t *testing.T) {
	var b strings.Builder
	r := MakeReport(&spec.Cluster{Name: "dev"}, &supervisor.Status{Ready: true,
		Nodes:      []supervisor.NodeStatus{{Name: "bight-dev", Address: "10.41.0.11", Ready: true}},
		Components: []supervisor.Process{{Name: "etcd", PID: 7, Restarts: 2}, {Name: "dns", Error: "signal: killed"}},
	})
	if err := r.Write(&b, ""); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"dev, degraded", "problem", "10.41.0.11, ready", "pid 7, started again 2 times", "not running: signal: killed"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, b.String())
		}
	}
}
