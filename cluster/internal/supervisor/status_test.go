package supervisor

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/cluster/internal/spec"
)

func testBoard() *board {
	return newBoard(&spec.Cluster{Name: "dev", Nodes: 2, Dir: "/state/dev"})
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func TestEachStageIsTimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testBoard()
		b.stage("one")
		time.Sleep(300 * time.Millisecond)
		b.waiting("for something")
		b.stage("two")
		time.Sleep(2 * time.Second)
		b.ready()
		got, _ := b.look()
		want := []Stage{{"one", 300}, {"two", 2000}}
		if diff := cmp.Diff(want, got.Stages); diff != "" {
			t.Error(diff)
		}
		if !got.Ready || got.Stage != "ready" || got.Waiting != "" {
			t.Errorf("got %+v", got)
		}
	})
}

func TestAChangeWakesWhoWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testBoard()
		b.stage("one")
		now, _ := b.look()
		woken := make(chan Status, 1)
		go func() { woken <- b.after(t.Context(), now.Version) }()
		synctest.Wait()
		b.waiting("not worth waking anybody")
		synctest.Wait()
		select {
		case s := <-woken:
			t.Fatalf("woken by %+v", s)
		default:
		}
		b.stage("two")
		if s := <-woken; s.Stage != "two" {
			t.Errorf("got %+v", s)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if s := b.after(ctx, 1000); s.Stage != "two" || time.Since(began) != time.Second {
			t.Errorf("got %+v after %s", s, time.Since(began))
		}
	})
}

func TestAFailureWaitsForItsReaderButNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testBoard()
		b.fail(errors.New("no disk"))
		began := time.Now()
		b.awaitReader(t.Context(), 5*time.Second)
		if time.Since(began) != 5*time.Second {
			t.Errorf("waited %s", time.Since(began))
		}
		b.read()
		b.read() // by a second reader
		began = time.Now()
		b.awaitReader(t.Context(), 5*time.Second)
		if time.Since(began) != 0 {
			t.Errorf("waited %s although it was read", time.Since(began))
		}
	})
}

func TestControlSocket(t *testing.T) {
	stopped := 0
	s := &Supervisor{Cluster: &spec.Cluster{Name: "dev"}, status: testBoard(), processes: newProcesses(quiet(), func() {})}
	s.status.fail(errors.New("no disk"))
	server := httptest.NewServer(s.controlHandler(func() { stopped++ }))
	defer server.Close()
	for _, c := range []struct {
		method, path string
		code         int
		body         string
	}{
		{http.MethodGet, "/status?after=-1", 200, "no disk"},
		{http.MethodGet, "/status?after=x", 400, "version"},
		{http.MethodGet, "/status", 400, "version"},
		{http.MethodPost, "/stop", 202, ""},
		{http.MethodGet, "/stop", 405, ""},
		{http.MethodGet, "/", 404, ""},
	} {
		request, err := http.NewRequestWithContext(t.Context(), c.method, server.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != c.code || !contains(string(b), c.body) {
			t.Errorf("%s %s: got %d %s, %v; want %d %s", c.method, c.path, response.StatusCode, b, err, c.code, c.body)
		}
	}
	if stopped != 1 {
		t.Errorf("stopped %d times, want once", stopped)
	}
	select {
	case <-s.status.failureRead:
	default:
		t.Error("the failure was read, but nobody knows")
	}
}

func TestANodesOldReportsDoNotCount(t *testing.T) {
	started := time.Date(2026, 1, 1, 12, 0, 0, 600_000_000, time.UTC)
	at := func(d time.Duration) meta.Time { return meta.NewTime(started.Add(d).Truncate(time.Second)) }
	node := func(status core.ConditionStatus, heartbeat meta.Time) *core.Node {
		return &core.Node{Status: core.NodeStatus{Conditions: []core.NodeCondition{
			{Type: core.NodeDiskPressure, Status: core.ConditionTrue, LastHeartbeatTime: heartbeat},
			{Type: core.NodeReady, Status: status, LastHeartbeatTime: heartbeat, Message: "no network"},
		}}}
	}
	for _, c := range []struct {
		name   string
		node   *core.Node
		ready  bool
		reason string
	}{
		{"new and ready", node(core.ConditionTrue, at(3*time.Second)), true, ""},
		{"in the second of the start", node(core.ConditionTrue, at(0)), true, ""},
		{"new and not ready", node(core.ConditionFalse, at(3*time.Second)), false, "no network"},
		{"unknown", node(core.ConditionUnknown, at(3*time.Second)), false, "no network"},
		{"from before", node(core.ConditionTrue, at(-2*time.Second)), false, "its kubelet has not reported yet"},
		{"without a word", &core.Node{}, false, "its kubelet has not reported yet"},
	} {
		if ready, reason := condition(c.node, started); ready != c.ready || reason != c.reason {
			t.Errorf("%s: got %v, %q; want %v, %q", c.name, ready, reason, c.ready, c.reason)
		}
	}
}

func TestTheFirstNodeThatIsNotReady(t *testing.T) {
	yes, no := NodeStatus{Ready: true}, NodeStatus{}
	for _, c := range []struct {
		nodes []NodeStatus
		index int
		ok    bool
	}{
		{[]NodeStatus{yes, no, no}, 1, true},
		{[]NodeStatus{no, yes}, 0, true},
		{[]NodeStatus{yes, yes}, 0, false},
	} {
		if i, ok := notReady(c.nodes); i != c.index || ok != c.ok {
			t.Errorf("%v: got %d, %v", c.nodes, i, ok)
		}
	}
}
