package lifecycle

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/bightdev/bight/cluster/internal/spec"
	"github.com/bightdev/bight/cluster/internal/supervisor"
)

// Report says how a cluster is; it is the output of status.
type Report struct {
	Name          string                  `json:"name"`
	State         string                  `json:"state"` // running, degraded, starting, failed, stopped
	Problems      []string                `json:"problems"`
	Context       string                  `json:"context"`
	Server        string                  `json:"server"`
	Registry      string                  `json:"registry"`
	Directory     string                  `json:"directory"`
	Egress        bool                    `json:"egress"`
	DualStack     bool                    `json:"dualStack"`
	NetworkPolicy string                  `json:"networkPolicy"`
	Stage         string                  `json:"stage,omitempty"`
	Stages        []supervisor.Stage      `json:"stages"`
	Nodes         []supervisor.NodeStatus `json:"nodes"`
	Components    []supervisor.Process    `json:"components"`
}

// MakeReport says how a cluster is; status is nil when nothing of it runs.
func MakeReport(c *spec.Cluster, status *supervisor.Status) Report {
	r := Report{
		Name: c.Name, State: "stopped", Context: c.Context(), Server: c.APIHostURL(),
		Registry: c.RegistryHost(), Directory: c.Dir, Egress: c.Egress, DualStack: c.DualStack,
		NetworkPolicy: "enforced",
		Problems:      []string{}, Stages: []supervisor.Stage{}, Nodes: []supervisor.NodeStatus{}, Components: []supervisor.Process{},
	}
	if status == nil {
		return r
	}
	r.Stage, r.Stages, r.Nodes, r.Components = status.Stage, status.Stages, status.Nodes, status.Components
	switch {
	case status.Error != "":
		r.State, r.Problems = "failed", []string{status.Error}
	case !status.Ready:
		r.State = "starting"
		if status.Waiting != "" {
			r.Problems = []string{status.Waiting}
		}
	default:
		r.State = "running"
		r.Problems = problems(status)
		if len(r.Problems) > 0 {
			r.State = "degraded"
		}
	}
	return r
}

// problems returns what of a cluster that has come up is not well now.
func problems(s *supervisor.Status) []string {
	found := []string{}
	for _, n := range s.Nodes {
		if !n.Ready {
			found = append(found, "node "+n.Name+": "+n.Reason)
		}
	}
	for _, p := range s.Components {
		if p.PID == 0 {
			found = append(found, fmt.Sprintf("%s is not running, and is about to be started again: %s: %s; its log is %s", p.Name, p.Error, p.LastWord, p.Log))
		}
	}
	return found
}

// Err is nil when the cluster runs and is well.
func (r Report) Err() error {
	switch r.State {
	case "running":
		return nil
	case "stopped", "failed":
		return fmt.Errorf("cluster %s is %s; start it with bight cluster start --name %s", r.Name, r.State, r.Name)
	}
	why := r.Stage
	if len(r.Problems) > 0 {
		why = strings.Join(r.Problems, "; ")
	}
	return fmt.Errorf("cluster %s is %s: %s", r.Name, r.State, why)
}

// Write writes the report, as JSON or for people.
func (r Report) Write(w io.Writer, output string) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	return r.print(w)
}

func (r Report) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "cluster\t%s, %s\n", r.Name, r.State)
	for _, p := range r.Problems {
		fmt.Fprintf(w, "problem\t%s\n", p)
	}
	fmt.Fprintf(w, "context\t%s\n", r.Context)
	fmt.Fprintf(w, "API server\t%s\n", r.Server)
	fmt.Fprintf(w, "registry\t%s\n", r.Registry)
	fmt.Fprintf(w, "directory\t%s\n", r.Directory)
	fmt.Fprintf(w, "way out\t%s\n", map[bool]string{true: "yes", false: "none"}[r.Egress])
	fmt.Fprintf(w, "addresses\t%s\n", map[bool]string{true: "IPv4 and IPv6", false: "IPv4"}[r.DualStack])
	fmt.Fprintf(w, "network policy\t%s\n", r.NetworkPolicy)
	for _, n := range r.Nodes {
		state := "ready"
		if !n.Ready {
			state = n.Reason
		}
		fmt.Fprintf(w, "node %s\t%s, %s\n", n.Name, n.Address, state)
	}
	for _, p := range r.Components {
		state := fmt.Sprintf("pid %d", p.PID)
		if p.PID == 0 {
			state = "not running: " + p.Error
		}
		if p.Restarts > 0 {
			state += fmt.Sprintf(", started again %d times", p.Restarts)
		}
		fmt.Fprintf(w, "%s\t%s\n", p.Name, state)
	}
	return w.Flush()
}
