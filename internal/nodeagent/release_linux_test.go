package nodeagent

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/agent/gate"
	"github.com/bightdev/bight/internal/kube/follow"
	"github.com/bightdev/bight/internal/release/spec"
)

// agentOf is an agent with these pods, all of which have gates.
func agentOf(t *testing.T, pods ...*core.Pod) *Agent {
	t.Helper()
	a := &Agent{
		Node: "n", Log: slog.New(slog.DiscardHandler), releases: map[types.NamespacedName]*v1alpha1.Release{}, trials: map[subject]*onTrial{},
		pods: map[types.UID]*core.Pod{}, posts: map[types.UID]*post{}, wake: make(chan struct{}, 1),
		courier: newCourier(func(context.Context) (*core.Service, error) { return nil, io.EOF }),
	}
	for _, p := range pods {
		a.pods[p.UID] = p
		a.posts[p.UID] = &post{gate: &gate.Gate{}, changed: a.rouse, log: a.Log}
	}
	return a
}

// see takes in a release as it comes from the API.
func (a *Agent) see(t *testing.T, event watch.EventType, r *v1alpha1.Release) {
	t.Helper()
	u, err := runtime.DefaultUnstructuredConverter.ToUnstructured(r)
	if err != nil {
		t.Fatal(err)
	}
	o := &unstructured.Unstructured{Object: u}
	if event == "" {
		a.takeReleases(follow.Change{All: []runtime.Object{o}})
		return
	}
	a.takeReleases(follow.Change{Event: event, Object: o})
}

// A release with pods of stable here is on trial, and what is told follows what the
// pods obey.
func TestANodeTellsWhichPodsObey(t *testing.T) {
	one, two, other := podOf("one", hashed("old")), podOf("two", hashed("old")), podOf("other", hashed("new"))
	a := agentOf(t, one, two, other)
	ctx, cancel := context.WithCancel(t.Context())
	var trials sync.WaitGroup
	defer trials.Wait()
	defer cancel()
	now := time.Unix(1000, 0)
	tell := func() []v1alpha1.NodeDoors {
		t.Helper()
		now = now.Add(time.Minute)
		want := map[types.UID]*wanted{}
		a.share(ctx, &trials, want, now)
		for of, status := range a.doors(want, now) {
			if len(a.trials) != 1 || of.uid != "uid-r" || a.trials[of] == nil {
				t.Errorf("%v is told, on trial are %d", of, len(a.trials))
			}
			return status.(v1alpha1.ReleaseStatus).Doors
		}
		return nil
	}
	wantDoors := func(what string, want ...v1alpha1.NodeDoors) {
		t.Helper()
		if d := cmp.Diff(want, tell()); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	r := releaseOf("r")
	wantDoors("no release")
	a.see(t, "", releaseOf("r", func(r *v1alpha1.Release) { r.Status.Route = nil }))
	wantDoors("a release that has not begun")
	a.see(t, watch.Modified, r)
	wantDoors("none obeys yet", v1alpha1.NodeDoors{Node: "n", Generation: 7})
	a.posts[one.UID].obey(obeyed{of: "uid-r", generation: 7})
	a.posts[two.UID].obey(obeyed{of: "uid-r", problem: "its door is broken"})
	wantDoors("one does, one can't", v1alpha1.NodeDoors{
		Node: "n", Generation: 7, Pods: []string{"one"}, Problems: []v1alpha1.DoorProblem{{Name: "two", Why: "its door is broken"}},
	})
	a.posts[two.UID].obey(obeyed{of: "uid-r", generation: 7})
	wantDoors("both do", v1alpha1.NodeDoors{Node: "n", Generation: 7, Pods: []string{"one", "two"}})
	a.posts[one.UID].tell(nil, "it uses the node's own network")
	wantDoors("one has no gate", v1alpha1.NodeDoors{
		Node: "n", Generation: 7, Pods: []string{"two"}, Problems: []v1alpha1.DoorProblem{{Name: "one", Why: "it uses the node's own network"}},
	})
	delete(a.pods, one.UID)
	next := releaseOf("r", func(r *v1alpha1.Release) { r.Status.Route.Generation = 8 })
	a.see(t, watch.Modified, next)
	wantDoors("about to obey the next", v1alpha1.NodeDoors{
		Node: "n", Generation: 7, Pods: []string{"two"}, Problems: []v1alpha1.DoorProblem{{Name: "one", Why: "it uses the node's own network"}},
	})
	a.posts[two.UID].obey(obeyed{of: "uid-r", generation: 8})
	wantDoors("it obeys", v1alpha1.NodeDoors{Node: "n", Generation: 8, Pods: []string{"two"}})
	delete(a.pods, two.UID)
	wantDoors("no pod of stable is left here", v1alpha1.NodeDoors{Node: "n"})
	a.see(t, watch.Modified, releaseOf("r", func(r *v1alpha1.Release) { r.Status.Phase, r.Status.Route = "Promoted", nil }))
	wantDoors("it is over")
	if len(a.trials) != 0 {
		t.Error("it is on trial")
	}
	a.see(t, watch.Added, r)
	wantDoors("only the canary's pods are here")
	a.see(t, watch.Deleted, r)
	if len(a.releases) != 0 {
		t.Error("a release that was deleted is known")
	}
}

// Of a long list only those Releases are held that doors may have to do with.
func TestReleasesThatAreOverAreNotHeld(t *testing.T) {
	for _, phase := range []string{"", "Starting", "Progressing", "Held", "Promoting", "Promoted", "Undoing", "Undone", "Superseded"} {
		for _, routed := range []bool{false, true} {
			r := releaseOf("r", func(r *v1alpha1.Release) {
				if r.Status.Phase = phase; !routed {
					r.Status.Route = nil
				}
			})
			u, err := runtime.DefaultUnstructuredConverter.ToUnstructured(r)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := underWay(&unstructured.Unstructured{Object: u}), !spec.Over(r); got != want {
				t.Errorf("phase %q, with a routing %v: held is %v, want %v", phase, routed, got, want)
			}
		}
	}
}

// A conviction by this node outlives its agent, and its pods.
func TestAConvictionLasts(t *testing.T) {
	pod := podOf("one", hashed("old"))
	a := agentOf(t, pod)
	ctx, cancel := context.WithCancel(t.Context())
	var trials sync.WaitGroup
	defer trials.Wait()
	defer cancel()
	r := releaseOf("r", func(r *v1alpha1.Release) {
		r.Status.Doors = []v1alpha1.NodeDoors{{Node: "n", Convicted: "errors", Decided: 5}}
	})
	a.see(t, "", r)
	for _, left := range []bool{true, false} {
		if !left {
			delete(a.pods, pod.UID)
		}
		r.Status.Doors = nil // what a write of nothing would make of it
		want := map[types.UID]*wanted{}
		a.share(ctx, &trials, want, time.Now())
		if left && brief(want[pod.UID]) != "stable of r at 8: stable 100% canary 0% shut" {
			t.Errorf("wanted is %s", brief(want[pod.UID]))
		}
		status, ok := a.doors(want, time.Now())[releaseSubject(r)].(v1alpha1.ReleaseStatus)
		if !ok || status.Doors[0].Convicted != "errors" || status.Doors[0].Decided != 5 {
			t.Errorf("told is %+v", status)
		}
		a.see(t, watch.Modified, r)
	}
}

// What is told of an Intercept is taken back when there is no more to tell; of a release
// it stays.
func TestWhatIsWrittenIntoAStatus(t *testing.T) {
	writes := make(chan string, 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		var body struct {
			Metadata struct{ UID string }
			Status   json.RawMessage
		}
		if err := json.Unmarshal(b, &body); err != nil {
			t.Error(err)
		}
		writes <- r.Method + " " + strings.TrimPrefix(r.URL.Path, "/apis/bight.dev/v1alpha1/namespaces/") + " by " + r.URL.Query().Get("fieldManager") +
			" of " + body.Metadata.UID + " " + string(body.Status)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(b)
	}))
	defer s.Close()
	client, err := dynamic.NewForConfig(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	r := &reporter{client: client, node: "n", log: slog.New(slog.DiscardHandler), wake: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	defer done.Wait()
	defer cancel()
	done.Go(func() {
		if err := r.run(ctx); err != nil {
			t.Error(err)
		}
	})
	x := subject{kindIntercept, nameOf(interceptOf("x")), "uid-x"}
	of := releaseSubject(releaseOf("r"))
	intercept := v1alpha1.InterceptStatus{Nodes: []v1alpha1.NodeStatus{{Node: "n"}}}
	release := v1alpha1.ReleaseStatus{Doors: []v1alpha1.NodeDoors{{Node: "n", Generation: 7}}}
	const ofIntercept, ofRelease = "PATCH shop/intercepts/x/status by bight-node-n of uid-x ", "PATCH shop/releases/r/status by bight-node-n of uid-r "
	for _, step := range []struct {
		all  map[subject]any
		want []string
	}{
		{map[subject]any{of: release}, []string{ofRelease + `{"doors":[{"node":"n","generation":7}]}`}},
		{map[subject]any{of: release, x: intercept}, []string{ofIntercept + `{"nodes":[{"node":"n"}]}`}},
		{map[subject]any{}, []string{ofIntercept + "{}"}},
		{map[subject]any{of: release}, []string{ofRelease + `{"doors":[{"node":"n","generation":7}]}`}},
	} {
		r.report(step.all)
		for _, want := range step.want {
			if got := <-writes; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	}
	if len(writes) > 0 {
		t.Errorf("written besides: %s", <-writes)
	}
}
