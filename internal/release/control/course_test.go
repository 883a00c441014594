package control

import (
	"encoding/json"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
)

// underWay is a release with two pods, at a twentieth.
func underWay(t *testing.T) *course {
	t.Helper()
	s := stage()
	s.add("two", 2)
	s.deployment.Spec.Template = *template("two")
	b, err := json.Marshal(before{Release: "r", Service: "cart", Stable: "one"})
	if err != nil {
		t.Fatal(err)
	}
	s.deployment.Annotations = map[string]string{v1alpha1.ReleasedAnnotation: string(b)}
	r := &v1alpha1.Release{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-two", UID: "r"}}
	r.Status.Route = &v1alpha1.Routing{Generation: 100, Stable: "one"}
	co, err := newCourse(r)
	if err != nil {
		t.Fatal(err)
	}
	co.scene = s
	co.State.Phase, co.State.Opened, co.State.Route = release.Progressing, true, release.Route{Generation: 3, Weight: 500}
	return co
}

func (co *course) saves(t *testing.T) {
	t.Helper()
	var err error
	if co.written, err = co.status(); err != nil {
		t.Fatal(err)
	}
}

func TestARoutingHasANewGenerationWhenItDiffers(t *testing.T) {
	co := underWay(t)
	steps := []struct {
		name   string
		change func()
		newer  bool // than before
		since  bool // the doors have to obey this very generation
	}{
		{"the first", func() {}, true, true},
		{"nothing", func() {}, false, false},
		{"a pod that is not ready any more", func() { co.scene.pods["two"][0].Status.Conditions = nil }, true, false},
		{"another weight", func() { co.State.Route.Weight = 1000 }, true, true},
		{"a route by hand", func() {
			co.r.Spec.Orders.Routes = []v1alpha1.ReleaseRoute{{Path: "/x", To: v1alpha1.Canary}}
			co.heed(nil, true)
		}, true, false},
		{"undone", func() { co.State.Route = release.Route{Generation: 5, Shut: true} }, true, true},
	}
	for _, s := range steps {
		was := co.routing.Generation
		s.change()
		co.direct()
		if (co.routing.Generation > was) != s.newer {
			t.Errorf("%s: generation %d after %d", s.name, co.routing.Generation, was)
		}
		if (co.Since == co.routing.Generation) != (s.since || !s.newer && co.Since == was) {
			t.Errorf("%s: obeyed from generation %d on, of %d", s.name, co.Since, co.routing.Generation)
		}
		co.saves(t)
	}
	if r := co.routing; r.Weight != 0 || r.Held != 0 || !r.Shut || len(r.Addresses) != 1 || r.Canary != "two" {
		t.Errorf("the routing is %+v", r)
	}
}

func TestObeyedIsWhatEveryPodThatServesHasADoorFor(t *testing.T) {
	co := underWay(t)
	co.direct()
	door := func(node string, generation int64, pods ...string) v1alpha1.NodeDoors {
		return v1alpha1.NodeDoors{Node: node, Generation: generation, Pods: pods}
	}
	g := co.Since
	tests := []struct {
		name  string
		doors []v1alpha1.NodeDoors
		want  bool
	}{
		{"no doors", nil, false},
		{"one pod without", []v1alpha1.NodeDoors{door("a", g, "cart-one-a", "cart-one-b")}, false},
		{"one node is late", []v1alpha1.NodeDoors{door("a", g, "cart-one-a", "cart-one-b"), door("b", g-1, "cart-one-c")}, false},
		{"all", []v1alpha1.NodeDoors{door("a", g, "cart-one-a", "cart-one-b"), door("b", g+1, "cart-one-c")}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			co.r.Status.Doors = tt.doors
			if got := co.obeyed() == co.State.Route.Generation; got != tt.want {
				t.Errorf("obeyed: %v", got)
			}
		})
	}
	co.scene.pods["one"][2].Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
	co.r.Status.Doors = tests[1].doors
	if co.obeyed() != co.State.Route.Generation {
		t.Error("a pod that does not serve is waited for")
	}
}

// What is written is what the status was then: a change is seen as one.
func TestWhatIsWrittenDoesNotChange(t *testing.T) {
	co := underWay(t)
	co.direct()
	co.saves(t)
	co.routing.Retire = true
	if co.written.Route.Retire {
		t.Error("what was written has changed by itself")
	}
}

// A process that is killed is followed by another, which knows what it knew.
func TestAnotherProcessGoesOn(t *testing.T) {
	co := underWay(t)
	if err := co.sit(); err != nil {
		t.Fatal(err)
	}
	v := co.judge()
	co.note(release.State{}, v)
	co.direct()
	co.saves(t)
	r := co.r.DeepCopy()
	r.Status = *co.written.DeepCopy()
	// What the API keeps has been JSON.
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(r)
	if err != nil {
		t.Fatal(err)
	}
	read := &v1alpha1.Release{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object, read); err != nil {
		t.Fatal(err)
	}
	next, err := newCourse(read)
	if err != nil {
		t.Fatal(err)
	}
	next.scene = co.scene
	if err := next.sit(); err != nil {
		t.Fatal(err)
	}
	if digest(next.memory) != digest(co.memory) || digest(next.routing) != digest(co.routing) || len(next.bench.kept.Pods) != 5 {
		t.Errorf("it knows %+v, %+v and %d pods", next.memory, next.routing, len(next.bench.kept.Pods))
	}
	next.judge()
	if next.bench.dirty && digest(next.bench.kept.Pods) != digest(co.bench.kept.Pods) {
		t.Error("pods have happened a second time")
	}
}

func TestABenchKeepsWhatItHasSeen(t *testing.T) {
	co := underWay(t)
	if err := co.sit(); err != nil {
		t.Fatal(err)
	}
	b := co.bench
	b.passes(time.Now(), time.Now())
	if b.dirty {
		t.Error("time alone is something to be kept")
	}
	counts := verdict.Counts{Cells: []verdict.Cell{{Weight: 0.05, Canary: verdict.Tally{Failed: 1}}}}
	batch := spec.Batch{Node: "a", Boot: "x", Seq: 1, Counts: counts, Convicted: "E = 9000"}
	b.take(batch, time.Now())
	if !b.dirty || b.alone != "E = 9000" {
		t.Errorf("dirty %v, alone %q", b.dirty, b.alone)
	}
	was, err := b.keep()
	if err != nil {
		t.Fatal(err)
	}
	b.take(batch, time.Now())
	if is, err := b.keep(); err != nil || string(is) != string(was) {
		t.Errorf("the same batch counts twice: %v", err)
	}
	for evidence, seqs := range map[string]int{string(was): 1, `{"judge":{"of":"another program"},"seqs":{"a/x":7}}`: 0, `7`: 0} {
		r := co.r.DeepCopy()
		r.Status.Evidence = &runtime.RawExtension{Raw: []byte(evidence)}
		next, err := newBench(r, co.routing, time.Now(), 0)
		if err != nil || len(next.kept.Seqs) != seqs {
			t.Errorf("%.40s: %v, %v", evidence, next.kept.Seqs, err)
		}
	}
}

// A status that somebody has emptied keeps nobody from undoing.
func TestAnEmptyStatus(t *testing.T) {
	was := underWay(t)
	r := was.r.DeepCopy()
	r.Status = v1alpha1.ReleaseStatus{}
	co, err := newCourse(r)
	if err != nil {
		t.Fatal(err)
	}
	co.scene = was.scene
	if !co.engaged() {
		t.Fatal("the Deployment is not its own")
	}
	if err := co.sit(); err != nil {
		t.Fatal(err)
	}
	co.direct()
	if r := co.routing; r.Stable != "one" || r.Canary != "two" || r.Weight != 0 || len(r.Ports) != 1 || len(r.Selector) == 0 {
		t.Errorf("the routing is %+v", r)
	}
}

func TestTheStatusTellsWhenRequestsCameAndWent(t *testing.T) {
	co := underWay(t)
	co.direct()
	collecting := verdict.Verdict{Is: verdict.Collecting}
	co.note(release.State{Phase: release.Starting}, collecting)
	s, err := co.status()
	if err != nil {
		t.Fatal(err)
	}
	if s.Exposed == nil || s.Full != nil || s.Undoing != nil || s.Verdict.Since == nil {
		t.Fatalf("at 5 %%: exposed %v, full %v, undoing %v, verdict since %v", s.Exposed, s.Full, s.Undoing, s.Verdict.Since)
	}
	exposed, since := s.Exposed.Time, s.Verdict.Since.Time

	was := co.State
	co.State.Phase, co.State.Route = release.Undoing, release.Route{Generation: 4, Shut: true}
	co.note(was, verdict.Verdict{Is: verdict.Bad})
	undoing := co.Undoing
	was = co.State
	co.State.Phase = release.Undone
	co.note(was, verdict.Verdict{Is: verdict.Bad})
	if s, err = co.status(); err != nil {
		t.Fatal(err)
	}
	if !s.Exposed.Time.Equal(exposed) || s.Full != nil || s.Undoing == nil || !s.Undoing.Time.Equal(undoing) || s.Verdict.Since.Time.Before(since) {
		t.Errorf("undone: %+v, since %v; it was exposed at %v and began to be undone at %v", s, s.Verdict.Since, exposed, undoing)
	}
}

// Requests are never led to where no pod is while there are pods that serve.
func TestTheServiceLeadsToPodsThatExist(t *testing.T) {
	ending := func(all []*corev1.Pod) {
		for _, p := range all {
			p.DeletionTimestamp = &metav1.Time{}
		}
	}
	tests := []struct {
		name   string
		change func(*scene)
		want   string
	}{
		{"both are there", func(*scene) {}, "one"},
		{"stable is not ready, and may be soon", func(s *scene) {
			for _, p := range s.pods["one"] {
				p.Status.Conditions = nil
			}
		}, "one"},
		{"one pod of stable is left", func(s *scene) { ending(s.pods["one"][1:]) }, "one"},
		{"stable's ReplicaSet is gone, and its pods end", func(s *scene) { s.sets = s.sets[1:]; ending(s.pods["one"]) }, "two"},
		{"all of stable's pods end", func(s *scene) { ending(s.pods["one"]) }, "two"},
		{"stable's pods were left to themselves", func(s *scene) { s.sets = s.sets[1:]; s.strays = map[string]bool{"one": true} }, "one"},
		{"nobody is there", func(s *scene) { ending(s.pods["one"]); ending(s.pods["two"]) }, "one"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			co := underWay(t)
			tt.change(&co.scene)
			before := len(co.events)
			for range 2 {
				if got := co.leads(); got != tt.want {
					t.Errorf("the Service leads to %s, want %s", got, tt.want)
				}
			}
			if told := len(co.events) - before; told != 0 && tt.want == "one" || told != 1 && tt.want == "two" {
				t.Errorf("it is told %d times", told)
			}
			co.scene = underWay(t).scene
			if got := co.leads(); got != "one" || co.Alone {
				t.Errorf("with pods of stable again it leads to %s", got)
			}
		})
	}
}

// The pods of before end when nothing is under way any more that their doors carry, or when
// they have had the time that they may take to end.
func TestPodsOfBeforeWaitForWhatTheirDoorsCarry(t *testing.T) {
	now := time.Now()
	for name, tt := range map[string]struct {
		grace    int64
		turned   time.Duration
		underway []int64
		want     bool
	}{
		"nothing is under way":      {30, 4 * time.Second, []int64{0, 0}, false},
		"something is, of one node": {30, 4 * time.Second, []int64{0, 2}, true},
		"for the time that it may":  {30, 32 * time.Second, []int64{1}, true},
		"for longer":                {30, 34 * time.Second, []int64{1}, false},
		"a pod that may take long":  {3600, 4 * time.Minute, []int64{1}, true},
		"it is not waited for that": {3600, 6 * time.Minute, []int64{1}, false},
		"a pod that takes no time":  {0, 4 * time.Second, []int64{1}, false},
	} {
		co := underWay(t)
		co.Turned, co.Before = now.Add(-tt.turned), &corev1.PodTemplateSpec{}
		co.Before.Spec.TerminationGracePeriodSeconds = &tt.grace
		co.r.Status.Doors = nil
		for _, n := range tt.underway {
			co.r.Status.Doors = append(co.r.Status.Doors, v1alpha1.NodeDoors{Underway: n})
		}
		if got := co.carries(now); got != tt.want {
			t.Errorf("%s: they wait: %v, want %v", name, got, tt.want)
		}
	}
}

// A release that waits for the pods that another one keeps has as long for its own afterwards
// as any.
func TestWhatIsWaitedForAnotherReleaseIsNotOfItsOwnTime(t *testing.T) {
	co := underWay(t)
	co.State.Started = time.Now().Add(-time.Hour)
	if got := co.own(); !got.Equal(co.State.Started) {
		t.Errorf("it has not waited, and its time begins at %v, want %v", got, co.State.Started)
	}
	co.free = co.State.Started.Add(50 * time.Minute)
	if got := co.own(); !got.Equal(co.free) {
		t.Errorf("it has waited until %v, and its time begins at %v", co.free, got)
	}
}
