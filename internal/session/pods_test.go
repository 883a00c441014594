package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	restclient "k8s.io/client-go/rest"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/live"
	"github.com/bightdev/bight/internal/tree"
	"github.com/bightdev/bight/internal/ui/term"
)

func TestReadyPodsAnswerBeforeNewOnes(t *testing.T) {
	for i, tt := range []struct {
		ready, newest bool
	}{{false, false}, {false, true}, {true, false}, {true, true}} {
		if got := rank(&pod{ready: tt.ready}, tt.newest); got != i {
			t.Errorf("ready %v, newest %v: rank %d, want %d", tt.ready, tt.newest, got, i)
		}
	}
}

func TestReasonIsThatOfThePodThatCameFarthest(t *testing.T) {
	running := &live.Target{}
	for _, tt := range []struct {
		name string
		pods []*pod
		want string
	}{
		{"none", nil, "it has no pod yet"},
		{"starting", []*pod{{name: "a"}}, "pod a is starting"},
		{"not ready", []*pod{{name: "a"}, {name: "b", target: running}}, "pod b is not ready yet"},
		{"crashing", []*pod{{name: "a", target: running, process: process{ends: 2}}, {name: "b"}}, "its process ends again and again; bight logs cart shows what it says"},
		{"one is ready", []*pod{{name: "a"}, {name: "b", target: running, ready: true}}, ""},
		{"it crashed and is well again", []*pod{{name: "a", target: running, ready: true, process: process{ends: 1, isUp: true}}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPods(nil)
			p.all["x"] = &pod{name: "x", service: "other", target: running, ready: true}
			for _, pod := range tt.pods {
				pod.service = "cart"
				p.all[pod.name] = pod
			}
			if got := p.reason("cart"); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAnEditIsLiveWhenAPodHasItAll(t *testing.T) {
	hash := func(s string) tree.Hash { return tree.Tree{s: {}}.Digest() }
	mine, other := hash("mine"), hash("other")
	sync := live.Event{Kind: live.Synced, Tree: mine, Diff: time.Millisecond, Send: 2 * time.Millisecond, Apply: 4 * time.Millisecond}
	start := live.Event{Kind: live.Started, Tree: mine, After: 5 * time.Millisecond}
	ready := live.Event{Kind: live.Ready, After: 6 * time.Millisecond}
	type told struct {
		pod string
		ev  live.Event
	}
	sent := []term.Phase{{Name: "build", Took: time.Second}, {Name: "send", Took: 3 * time.Millisecond}, {Name: "apply", Took: 4 * time.Millisecond}}
	for _, tt := range []struct {
		name    string
		restart bool
		events  []told
		want    []term.Phase // nil: not live
	}{
		{"files that need no restart", false, []told{{"a", sync}}, sent},
		{"files of something else", false, []told{{"a", live.Event{Kind: live.Synced, Tree: other}}}, nil},
		{"sent, not started", true, []told{{"a", sync}, {"a", ready}}, nil},
		{"sent and started, not ready", true, []told{{"a", sync}, {"a", start}}, nil},
		{"another pod is ready", true, []told{{"a", sync}, {"a", start}, {"b", ready}}, nil},
		{"started with something else", true, []told{{"a", sync}, {"a", live.Event{Kind: live.Started, Tree: other}}, {"a", ready}}, nil},
		{"ready", true, []told{{"a", sync}, {"a", start}, {"a", ready}},
			append(sent[:3:3], term.Phase{Name: "restart", Took: 5 * time.Millisecond}, term.Phase{Name: "ready", Took: 6 * time.Millisecond})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := &edit{build: time.Second, tree: mine, restart: tt.restart, sent: map[string]live.Event{}, starts: map[string]live.Event{}}
			var got []term.Phase
			for _, told := range tt.events {
				if phases, isLive := e.take(told.pod, told.ev); isLive {
					got = phases
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestAPodIsReachedBesideItsProxy(t *testing.T) {
	running := core.ContainerState{Running: &core.ContainerStateRunning{}}
	object := &core.Pod{ObjectMeta: meta.ObjectMeta{Name: "cart-1", Labels: map[string]string{nameLabel: "cart"}}}
	object.Spec.Containers = []core.Container{
		{Name: "linkerd-proxy", Image: "proxy"},
		{Name: "cart", Image: "shop/cart", Command: []string{"/bight/agent", "run", "--listen", "127.0.0.1:24448", "--", "./cart"}},
	}
	object.Status.ContainerStatuses = []core.ContainerStatus{{Name: "linkerd-proxy", State: running}, {Name: "cart"}}
	p := newPods(&Session{Config: Config{Cluster: kube.New(&restclient.Config{Host: "http://127.0.0.1:1"}, "", ""), Log: slog.New(slog.DiscardHandler)}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nothing is there to connect to
	var targets sync.WaitGroup
	defer targets.Wait()
	p.note(ctx, &targets, object)
	if got := p.all["cart-1"]; got.image != "shop/cart" || got.container != "cart" || got.target != nil {
		t.Errorf("while the proxy alone runs: %+v", got)
	}
	object.Status.ContainerStatuses[1].State = running
	if p.note(ctx, &targets, object); p.all["cart-1"].target == nil {
		t.Error("it runs, and its agent is not found")
	}
}

func TestReplacedPodIsNoCrashedOne(t *testing.T) {
	mine := tree.Tree{"mine": {}}.Digest()
	var events bytes.Buffer
	printer := term.New(term.Config{Out: term.Stream{W: io.Discard}, Err: term.Stream{W: io.Discard}, Events: &events})
	p := newPods(&Session{Config: Config{Printer: printer}})
	crashed := &pod{name: "cart-1", service: "cart", ready: true, target: &live.Target{}, process: process{ends: 3}}
	p.all[crashed.name] = crashed
	p.event(crashed, live.Event{Kind: live.Replaced, By: "ada@laptop"})
	p.event(crashed, live.Event{Kind: live.Replaced, By: "ada@laptop"}) // of another connection
	if why := p.reason("cart"); why != "" {
		t.Errorf("it can't answer: %s", why)
	}
	p.edits["cart"] = &edit{heard: time.Now(), tree: mine, restart: true, files: []string{"main.go"}, sent: map[string]live.Event{}, starts: map[string]live.Event{}}
	p.event(crashed, live.Event{Kind: live.Synced, Tree: mine, Files: 1})
	if len(p.edits) > 0 {
		t.Error("the save is still on its way")
	}
	p.event(crashed, live.Event{Kind: live.Started, Tree: mine})
	if crashed.replacedBy != "" {
		t.Errorf("replaced by %s", crashed.replacedBy)
	}
	printer.Close()
	var got []string
	for line := range strings.Lines(events.String()) {
		var e struct{ Type, Text string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Type+": "+e.Text)
	}
	want := []string{
		"restart: stopped in cart-1: replaced by ada@laptop",
		"sync: main.go, staged: replaced by ada@laptop",
		"restart: started in cart-1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestWhatDoesNotBuildKeepsItsImage(t *testing.T) {
	a := shopApp()
	images := map[string]string{"web": "new"}
	deployment := func(name, image string) apps.Deployment {
		d := apps.Deployment{ObjectMeta: meta.ObjectMeta{Labels: map[string]string{nameLabel: name}}}
		d.Spec.Template.Spec.Containers = []core.Container{{Image: image}}
		return d
	}
	keepImages(a, images, []apps.Deployment{deployment("web", "old"), deployment("cart", "old"), deployment("gone", "old")})
	if diff := cmp.Diff(map[string]string{"web": "new", "cart": "old"}, images); diff != "" {
		t.Error(diff)
	}
}

func TestASyntaxErrorRemovesNothing(t *testing.T) {
	running := []apps.Deployment{
		{ObjectMeta: meta.ObjectMeta{Labels: map[string]string{nameLabel: "cart"}}},
		{ObjectMeta: meta.ObjectMeta{Labels: map[string]string{nameLabel: "pay"}}},
	}
	a := shopApp()
	if err := unread(a, running); err != nil {
		t.Errorf("source that parses: %v", err)
	}
	a.Unreadable = []app.Note{{Text: "expected ')'", From: app.From{File: "pay/main.go", Line: 7}}}
	if err := unread(a, running[:1]); err != nil {
		t.Errorf("nothing is missing: %v", err)
	}
	err := unread(a, running)
	if want := "pay cannot be found in the source, where some files do not parse; what is deployed is left as it is, correct these first:\npay/main.go:7: expected ')'"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestIsOutOfReachIsNotForWantOfRights(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"it answers", nil, false},
		{"the pod is not there", errors.New("server answered 404 Not Found: pod does not exist"), true},
		{"no right", fmt.Errorf("inspect cart-1: %w", &kube.Error{Kind: kube.Forbidden}), false},
	} {
		if got := isOutOfReach(tt.err); got != tt.want {
			t.Errorf("%s: got %t, want %t", tt.name, got, tt.want)
		}
	}
}

func TestOutOfSyncSaysWhy(t *testing.T) {
	s := ServiceStatus{Replicas: 2, Tree: "t"}
	for _, tt := range []struct {
		answers []answer
		want    string
	}{
		{[]answer{{pod: "a", digest: "t"}, {pod: "b", digest: "t"}}, ""},
		{[]answer{{pod: "a", digest: "t"}}, "1 of 2 pods are running"},
		{nil, "0 of 2 pods are running"},
		{[]answer{{pod: "a", digest: "old"}, {pod: "b", digest: "t"}}, "a has other files than the local source; bight up brings them"},
		{[]answer{{pod: "a", digest: "old"}, {pod: "b", digest: "old"}}, "a, b have other files than the local source; bight up brings them"},
		{[]answer{{pod: "a", digest: "t"}, {pod: "b", digest: "", err: errors.New("timed out")}}, "pod b does not say: timed out"},
	} {
		if got := outOfSync(s, tt.answers); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt.answers, got, tt.want)
		}
	}
}

func TestIsReportedWantsAllOfAnError(t *testing.T) {
	said, unsaid := reported{errors.New("a")}, errors.New("b")
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{said, true},
		{unsaid, false},
		{fmt.Errorf("more: %w", said), true},
		{errors.Join(said, said), true},
		{errors.Join(said, unsaid), false},
		{errors.Join(errors.Join(said), nil), true},
		{reported{&deploy.RolloutError{}}, true},
		{&deploy.RolloutError{Err: context.Canceled}, false},
	} {
		if got := IsReported(tt.err); got != tt.want {
			t.Errorf("%v: got %v, want %v", tt.err, got, tt.want)
		}
	}
}
