package deploy

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// epoch is when the rollouts of these tests begin.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func second(n int) metav1.Time { return metav1.NewTime(epoch.Add(time.Duration(n) * time.Second)) }

// world is a Deployment "cart" with an old and a new ReplicaSet.
func world() Observation {
	template := func(image string) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{labelName: "cart"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "cart", Image: image}}},
		}
	}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "cart", UID: "d", Generation: 2}, Spec: appsv1.DeploymentSpec{Template: template("new")}}
	set := func(name, image string) *appsv1.ReplicaSet {
		rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), OwnerReferences: controller("d")}}
		rs.Spec.Template = template(image)
		rs.Spec.Template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = name
		return rs
	}
	return Observation{Service: "cart", Deployment: d, ReplicaSets: []*appsv1.ReplicaSet{set("old", "old"), set("new", "new")}}
}

func controller(uid types.UID) []metav1.OwnerReference {
	yes := true
	return []metav1.OwnerReference{{UID: uid, Controller: &yes}}
}

// pod makes a pod of a ReplicaSet and changes it.
func pod(name string, set types.UID, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), OwnerReferences: controller(set)}}
	for _, c := range change {
		c(p)
	}
	return p
}

func ready(at int) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: second(at)})
	}
}

func unscheduled(message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: message})
	}
}

func status(restarts int32, state, last corev1.ContainerState) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "cart", Image: "img", RestartCount: restarts, State: state, LastTerminationState: last}}
	}
}

func waits(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func ended(code int32, reason, message string, at int) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message, FinishedAt: second(at)}}
}

var running = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}

func leaving(p *corev1.Pod) { t := second(1); p.DeletionTimestamp = &t }

func event(pod, kind, reason, message string, at int) *corev1.Event {
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: reason + message},
		InvolvedObject: corev1.ObjectReference{UID: types.UID(pod)}, Type: kind, Reason: reason, Message: message, LastTimestamp: second(at),
	}
}

// TestJudge judges one state twice: at once, and after it has lasted a minute.
func TestJudge(t *testing.T) {
	none := corev1.ContainerState{}
	for _, tc := range []struct {
		name   string
		change func(*Observation)
		atOnce string // state, or the cause of the failure
		later  string
		words  string // part of the failure's text or of what it waits for
	}{
		{"no deployment", func(o *Observation) { o.Deployment = nil }, "gone", "gone", "does not exist"},
		{"deployment is deleted", func(o *Observation) { n := second(0); o.Deployment.DeletionTimestamp = &n }, "gone", "gone", ""},
		{"no pods yet", func(*Observation) {}, "waiting", "waiting", "0 of 1 pods ready"},
		{"no replica set yet", func(o *Observation) { o.ReplicaSets = o.ReplicaSets[:1] }, "waiting", "waiting", "no pods yet"},
		{"old pod is no answer", func(o *Observation) { o.Pods = []*corev1.Pod{pod("a", "old", ready(1))} }, "waiting", "waiting", "0 of 1"},
		{"old pod still serves", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("a", "old", ready(1)), pod("b", "new", ready(2))}
		}, "waiting", "waiting", "previous revision"},
		{"old pod is leaving", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("a", "old", ready(1), leaving), pod("b", "new", ready(2))}
		}, "ready", "ready", ""},
		{"new pod says itself that it serves, beside an old one", func(o *Observation) {
			o.Pods, o.Serving = []*corev1.Pod{pod("a", "old", ready(1)), pod("b", "new", status(0, running, none))}, []string{"b"}
		}, "ready", "ready", ""},
		{"old pod says itself that it serves", func(o *Observation) {
			o.Pods, o.Serving = []*corev1.Pod{pod("a", "old", ready(1)), pod("b", "new")}, []string{"a"}
		}, "waiting", "waiting", "0 of 1"},
		{"new pod that has said so is leaving", func(o *Observation) {
			o.Pods, o.Serving = []*corev1.Pod{pod("b", "new", leaving)}, []string{"b"}
		}, "waiting", "waiting", ""},
		{"new pod is leaving", func(o *Observation) { o.Pods = []*corev1.Pod{pod("b", "new", ready(2), leaving)} }, "waiting", "waiting", ""},
		{"one of two", func(o *Observation) {
			two := int32(2)
			o.Deployment.Spec.Replicas = &two
			o.Pods = []*corev1.Pod{pod("b", "new", ready(2)), pod("c", "new")}
		}, "waiting", "waiting", "1 of 2 pods ready"},
		{"scaled to nothing", func(o *Observation) { zero := int32(0); o.Deployment.Spec.Replicas = &zero }, "ready", "ready", ""},
		{"evicted pod is replaced", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("a", "new", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), pod("b", "new", ready(2))}
		}, "ready", "ready", ""},
		{"stranger's pod", func(o *Observation) { o.Pods = []*corev1.Pod{pod("a", "elsewhere", ready(1))} }, "waiting", "waiting", ""},

		{"image", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("b", "new", status(0, waits("ErrImagePull", "dial tcp: connection refused"), none))}
		}, "image", "image", "connection refused"},
		{"image, the attempt's words win", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("b", "new", status(0, waits("ImagePullBackOff", "Back-off pulling"), none))}
			o.Events = []*corev1.Event{event("b", "Warning", "Failed", "Failed to pull image \"img\": no such host", 1), event("b", "Warning", "Failed", "Error: ErrImagePull", 1)}
		}, "image", "image", "no such host"},
		{"config error", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("b", "new", status(0, waits("CreateContainerConfigError", `secret "cart" not found`), none))}
		}, "container", "container", `secret "cart" not found`},
		{"config error that passes", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("b", "new", status(0, waits("CreateContainerConfigError", "failed to sync secret cache"), none))}
		}, "waiting", "container", "failed to sync"},
		{"not executable", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("b", "new", status(1, waits("CrashLoopBackOff", ""), ended(128, "StartError", "exec format error", 1)))}
		}, "container", "container", "exec format error"},

		{"first crash", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("b", "new", status(0, ended(3, "Error", "", 1), none))}
		}, "waiting", "waiting", "exit code 3"},
		{"second crash", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("b", "new", status(1, waits("CrashLoopBackOff", "back-off"), ended(3, "Error", "boom\n", 1)))}
		}, "crash", "crash", "exit code 3"},
		{"second crash, last words", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("b", "new", status(1, ended(3, "Error", "a\nboom\n", 1), none))}
		}, "crash", "crash", "its last output:\n  a\n  boom"},
		{"ends well", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("b", "new", status(1, ended(0, "Completed", "", 1), none))}
		}, "crash", "crash", "has to keep running"},
		{"signal", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("b", "new", status(1, ended(139, "Error", "", 1), none))}
		}, "crash", "crash", "signal 11"},
		{"out of memory", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("b", "new", status(1, ended(137, "OOMKilled", "", 1), none))}
		}, "crash", "crash", "ran out of memory"},
		{"crashed once, runs again", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("b", "new", status(1, running, ended(3, "Error", "", 1)))}
		}, "waiting", "probe", ""},

		{"never listens", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("b", "new", status(0, running, none))}
			o.Events = []*corev1.Event{event("b", "Warning", "Unhealthy", "Readiness probe failed: dial tcp 10.0.0.5:8080: connect: connection refused", 3)}
		}, "waiting", "probe", "connection refused"},
		{"unschedulable", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("b", "new", unscheduled("0/1 nodes are available: 1 Insufficient cpu."))}
		}, "waiting", "unschedulable", "Insufficient cpu"},
		{"a node is coming", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("b", "new", unscheduled("0/1 nodes are available"))}
			o.Events = []*corev1.Event{event("b", "Normal", "TriggeredScaleUp", "pod triggered scale-up", 1)}
		}, "waiting", "waiting", "node that is being added"},
		{"volume is missing", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("b", "new", status(0, waits("ContainerCreating", ""), none))}
			o.Events = []*corev1.Event{event("b", "Warning", "FailedMount", "volume not found", 1)}
		}, "waiting", "start", "FailedMount: volume not found"},
		{"just takes time", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("b", "new", status(0, waits("ContainerCreating", ""), none))}
		}, "waiting", "waiting", ""},
		{"quota", func(o *Observation) { refuse(o, 2, `pods "cart-x" is forbidden: exceeded quota: team`) }, "refused", "refused", "exceeded quota: team"},
		{"quota said of an older revision", func(o *Observation) { refuse(o, 1, "exceeded quota") }, "waiting", "waiting", ""},
		{"account is not there yet", func(o *Observation) {
			refuse(o, 2, `pods "cart-x" is forbidden: error looking up service account: serviceaccount "cart" not found`)
		}, "waiting", "refused", "not found"},

		{"process under the agent ended once", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("b", "new", status(0, running, none))}
			o.Exits = []Exit{{Pod: "b", Code: 2, Count: 1, At: epoch}}
		}, "waiting", "probe", ""},
		{"process under the agent ended twice", func(o *Observation) {
			o.Pods = []*corev1.Pod{pod("b", "new", status(0, running, none))}
			o.Exits = []Exit{{Pod: "b", Code: 2, Count: 2, At: epoch, Tail: []string{"no config"}}}
		}, "crash", "crash", "no config"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := world()
			tc.change(&o)
			first, seen := Judge(epoch, Patience{}, nil, []Observation{o})
			later, _ := Judge(epoch.Add(time.Minute), Patience{}, seen, []Observation{o})
			if d := cmp.Diff([]string{tc.atOnce, tc.later}, []string{outcome(first[0]), outcome(later[0])}); d != "" {
				t.Errorf("at once and later (-want +got):\n%s", d)
			}
			if text := later[0].Why + failureText(later[0]); !strings.Contains(text, tc.words) {
				t.Errorf("words are %q, want %q in them", text, tc.words)
			}
			if tc.atOnce == "waiting" && tc.later != "waiting" && first[0].Recheck.IsZero() {
				t.Error("time alone changes the verdict, but Recheck is not set")
			}
		})
	}
}

func refuse(o *Observation, observed int64, message string) {
	o.Deployment.Status.ObservedGeneration = observed
	o.Deployment.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: message}}
}

func outcome(v Verdict) string {
	if v.Failure != nil {
		return string(v.Failure.Cause)
	}
	return string(v.State)
}

func failureText(v Verdict) string {
	if v.Failure == nil {
		return ""
	}
	return v.Failure.Error()
}

// TestJudgeForgivesWhileLinksAreMissing has the service crash while the one
// that it links to comes up.
func TestJudgeForgivesWhileLinksAreMissing(t *testing.T) {
	for _, tc := range []struct {
		name     string
		db       []*corev1.Pod
		restarts int32
		want     string
	}{
		{"link is not ready", nil, 1, "waiting"},
		{"crashed before the link was ready", []*corev1.Pod{pod("db-1", "new", ready(10))}, 1, "waiting"},
		{"crashed after the link was ready", []*corev1.Pod{pod("db-1", "new", ready(4))}, 1, "crash"},
		{"crashed too often", nil, 3, "crash"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cart, db := world(), world()
			cart.Links = []string{"db", "cart"}
			cart.Pods = []*corev1.Pod{pod("b", "new", status(tc.restarts, waits("CrashLoopBackOff", ""), ended(1, "Error", "", 5)))}
			db.Service, db.Pods = "db", tc.db
			got, _ := Judge(epoch.Add(6*time.Second), Patience{}, nil, []Observation{cart, db})
			if outcome(got[0]) != tc.want {
				t.Errorf("verdict is %s, want %s", outcome(got[0]), tc.want)
			}
		})
	}
}

func TestJudgeForgetsAStateThatHealed(t *testing.T) {
	o := world()
	o.Pods = []*corev1.Pod{pod("b", "new", unscheduled("full"))}
	_, seen := Judge(epoch, Patience{}, nil, []Observation{o})
	healed := world()
	healed.Pods = []*corev1.Pod{pod("b", "new")}
	_, seen = Judge(epoch.Add(2*time.Second), Patience{}, seen, []Observation{healed})
	got, _ := Judge(epoch.Add(6*time.Second), Patience{}, seen, []Observation{o})
	if got[0].State != Waiting {
		t.Errorf("verdict is %s: the patience did not start anew", outcome(got[0]))
	}
}

// A mesh's proxy runs beside the service or before it: if one of them is not ready, its
// lines tell why.
func TestJudgeBlamesTheServiceBesideAProxy(t *testing.T) {
	beside := func(state corev1.ContainerState) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a-proxy", State: running}, {Name: "cart", State: state}}
		}
	}
	for want, state := range map[string]corev1.ContainerState{"cart": running, "a-proxy": waits("PodInitializing", "")} {
		o := world()
		o.Pods = []*corev1.Pod{pod("b", "new", beside(state))}
		_, seen := Judge(epoch, Patience{}, nil, []Observation{o})
		later, _ := Judge(epoch.Add(time.Minute), Patience{}, seen, []Observation{o})
		if f := later[0].Failure; f == nil || f.Cause != CauseProbe || f.Container != want {
			t.Errorf("failure is %+v, want container %s", f, want)
		}
	}
}

func TestPodsOf(t *testing.T) {
	o := world()
	pods := []*corev1.Pod{
		pod("n2", "new", func(p *corev1.Pod) { p.CreationTimestamp = second(2) }),
		pod("n1", "new", func(p *corev1.Pod) { p.CreationTimestamp = second(1) }),
		pod("o1", "old"), pod("x", "other"),
		pod("done", "new", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
	}
	newest, older := PodsOf(o.Deployment, o.ReplicaSets, pods)
	var got [][]string
	for _, ps := range [][]*corev1.Pod{newest, older} {
		var names []string
		for _, p := range ps {
			names = append(names, p.Name)
		}
		got = append(got, names)
	}
	if d := cmp.Diff([][]string{{"n1", "n2"}, {"o1"}}, got); d != "" {
		t.Errorf("newest and older pods (-want +got):\n%s", d)
	}
}

func TestPhasesOf(t *testing.T) {
	p := pod("b", "new", status(0, running, corev1.ContainerState{}), ready(3), func(p *corev1.Pod) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
	})
	got := phasesOf(p, []*corev1.Event{event("b", "Normal", "Pulled", "", 2), event("b", "Normal", "Pulling", "", 1), event("other", "Normal", "Pulling", "", 1)})
	want := []Phase{PhaseScheduled, PhasePulling, PhasePulled, PhaseStarted, PhaseReady}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("phases (-want +got):\n%s", d)
	}
}

func TestBriefSaysTheLineThatTellsMost(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    Failure
		want string
	}{
		{"panic", Failure{Pod: "cart-1", Cause: CauseCrash, Message: "ends at once with exit code 2", Log: []string{"starts", "panic: no luck", "", "goroutine 1 [running]:", "main.main()"}},
			"pod cart-1 ends at once with exit code 2: panic: no luck"},
		{"last line", Failure{Pod: "cart-1", Cause: CauseCrash, Message: "ends at once with exit code 1", Log: []string{"starts", "no database", ""}},
			"pod cart-1 ends at once with exit code 1: no database"},
		{"silent", Failure{Pod: "cart-1", Cause: CauseCrash, Message: "ends at once with exit code 1"}, "pod cart-1 ends at once with exit code 1"},
		{"image", Failure{Pod: "cart-1", Cause: CauseImage, Message: "no such host", Log: []string{"x"}}, "pod cart-1 cannot get its image: no such host"},
		{"no pod", Failure{Cause: CauseRefused, Message: "exceeded quota"}, "the cluster refuses its pods: exceeded quota"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.f.Brief(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestLastRun(t *testing.T) {
	for _, tt := range []struct{ name, log, want string }{
		{"nothing", "", ""},
		{"one run", "a b c", "a b c"},
		{"three runs, the first cut off", "b1 a2 b2 a3 b3", "a3 b3"},
		{"runs that differ", "a x b y", "a x b y"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := strings.Join(lastRun(strings.Fields(tt.log)), " "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
