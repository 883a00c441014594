//go:build e2e

package e2e

import (
	stdcontext "context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/steer"
)

func testEngageAndLeaveUnderLoad(b *bay) {
	ada := b.laptop("ada")
	b.load("/start?url="+strings.TrimSuffix(cart, "/"), nil)
	way, began := b.bridge(), time.Now()
	rule := steer.Rule{Owner: way.Owner, Service: "cart", Port: 8080, Mode: steer.Intercept}
	var under sync.WaitGroup
	var took []time.Duration
	const rounds = 100
	for i := range rounds {
		rule.ID = fmt.Sprint("round-", i)
		ctx, leave := stdcontext.WithCancel(context())
		engaged, failed, asked := make(chan struct{}), make(chan error, 1), time.Now()
		under.Go(func() {
			failed <- way.Intercept(ctx, rule, 8080+ada.offset, func(string) { close(engaged) })
		})
		select {
		case <-engaged:
		case err := <-failed:
			leave()
			b.Fatalf("round %d: %v", i, err)
		}
		took = append(took, time.Since(asked))
		if a, err := b.ask(b.client(false, false), cart); err != nil || a.who != "ada" {
			b.Errorf("round %d: %+v, %v", i, a, err)
		}
		leave()
		// What is under way ends by itself meanwhile.
		b.eventually("the rule is gone", func() error {
			all, err := way.Intercepts(context())
			if err == nil && slices.ContainsFunc(all, func(i bridge.Intercept) bool { return i.ID == rule.ID }) {
				err = errors.New("it is there")
			}
			return err
		})
	}
	lasted := time.Since(began)
	under.Wait()
	var got counts
	b.load("/stop", &got)
	slices.Sort(took)
	b.Logf("%d times engaged (%s at the median, %s at most) and left in %s; %d requests and %d streams, answered %v; slowest request %.1f ms; %d failed",
		rounds, took[rounds/2].Round(time.Millisecond), took[rounds-1].Round(time.Millisecond), lasted.Round(time.Millisecond),
		got.Requests, got.Streams, got.By, got.Slowest, got.Failed)
	if got.Failed > 0 || got.By["app"] == 0 || got.By["ada"] == 0 || got.By["app"]+got.By["ada"] != got.Requests+got.Streams {
		b.Errorf("%+v", got)
	}
	if rate := float64(got.Requests) / lasted.Seconds(); rate < 50 {
		b.Errorf("it was a load of %.0f requests/s only", rate)
	}
}

// silence is how long requests may wait for a laptop that is gone.
const silence = 3 * time.Second

// busy is how many times as long something may take beside another cluster on the same two
// cores, whose tests may be compiling.
const busy = 3

// soon fails the test unless something has happened within a time that the product
// promises, or near it: the benchmark is what measures.
func (b *bay) soon(what string, took, limit time.Duration) {
	b.Helper()
	b.Logf("%s after %s (at most %s)", what, took.Round(time.Millisecond), limit)
	if took > busy*limit {
		b.Errorf("%s only after %s", what, took)
	}
}

func testKilled(b *bay) {
	program := filepath.Join(b.TempDir(), "killed-with-bight")
	if err := os.Link(b.program("cart"), program); err != nil {
		b.Fatal(err)
	}
	s := b.background([]string{"WHO=ada"}, "run", "cart", "--intercept", "--", program)
	b.until("ada", cart)
	began := time.Now()
	s.signal(syscall.SIGKILL)
	b.soon("killed: the app answers", b.until("app", cart), silence)
	b.answers("app", b.client(false, false), cart)
	b.eventually("no process is left", func() error {
		if left := processes(b.T, program); len(left) > 0 {
			return fmt.Errorf("there is %s", left)
		}
		return nil
	})
	b.eventually("the list is empty", func() error {
		for _, i := range b.list() {
			if i.Service == "cart" {
				return fmt.Errorf("there is %+v", i)
			}
		}
		return nil
	})
	b.soon("killed: nothing is left", time.Since(began), 15*time.Second)
}

func testNetworkCut(b *bay) {
	bob := b.laptop("bob")
	th, kubeconfig := throughThrottle(b.T)
	held := b.background(nil, "run", "stock", "--kubeconfig", kubeconfig, "--", b.program("tool"), "hold", "stock:7000")
	held.says("number 5\n")
	b.intercept("bob", "stock", "--port", bob.at(8080), "--kubeconfig", kubeconfig)
	b.answers("bob", b.client(false, false), stock)

	cut := time.Now()
	th.set(true)
	b.soon("cut: the app answers", b.until("app", stock), silence)
	numbers := strings.Count(held.output.String(), "number ")
	b.eventually("the lease is over", func() error {
		for _, i := range b.list() { // each one opens sessions that the cut ones must survive
			if i.Service == "stock" {
				return fmt.Errorf("there is %+v", i)
			}
		}
		return nil
	})
	gone := time.Since(cut)
	b.soon("cut: the rule is gone", gone, 12*time.Second) // a lease of 10 s
	if gone < 8*time.Second {
		b.Errorf("the rule was gone after %s, although its laptop had 10 s to come back", gone)
	}
	b.answers("app", b.client(false, false), stock)
	time.Sleep(20*time.Second - time.Since(cut)) // the length of the cut is what is tested
	th.set(false)
	b.soon("back: the laptop answers", b.until("bob", stock), 2*time.Second)
	b.eventually("the open connection goes on", func() error {
		if n := strings.Count(held.output.String(), "number "); n < numbers+20 {
			return fmt.Errorf("%d numbers are back, before it were %d", n, numbers)
		}
		return nil
	})
	held.stdin.Close()
	held.says("are back")
	<-held.ended
	if code := held.cmd.ProcessState.ExitCode(); code != 0 {
		b.Errorf("what held a connection ends with %d:\n%s", code, held.output)
	}
}

// back waits until who answers again. Requests may fail until then.
func (b *bay) back(who, url string) {
	b.Helper()
	b.eventually(who+" answers", func() error {
		if a, err := b.ask(b.client(false, false), url); err != nil || a.who != who {
			return fmt.Errorf("%+v, %v", a, err)
		}
		return nil
	})
}

// scale sets cart's replicas, and waits until all are ready.
func (b *bay) scale(replicas int) {
	b.Helper()
	patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas)
	if _, err := client.AppsV1().Deployments(b.namespace).Patch(context(), "cart", types.MergePatchType, []byte(patch), meta.PatchOptions{}); err != nil {
		b.Fatal(err)
	}
	b.settled(replicas)
}

// settled waits until cart has as many pods as it shall, all of the newest kind.
func (b *bay) settled(replicas int) {
	b.Helper()
	b.eventually("the pods are ready", func() error {
		d, err := client.AppsV1().Deployments(b.namespace).Get(context(), "cart", meta.GetOptions{})
		if err != nil {
			return err
		}
		if s := d.Status; s.ObservedGeneration < d.Generation || int(s.ReadyReplicas) != replicas || s.UpdatedReplicas != s.ReadyReplicas || s.Replicas != s.ReadyReplicas {
			return fmt.Errorf("%+v", s)
		}
		list, err := client.CoreV1().Pods(b.namespace).List(context(), meta.ListOptions{LabelSelector: meta.FormatLabelSelector(d.Spec.Selector)})
		if err == nil && len(list.Items) != replicas {
			err = fmt.Errorf("there are %d pods, those that end too", len(list.Items))
		}
		return err
	})
}

// covered waits until a rule is in force in so many pods.
func (b *bay) covered(pods int) time.Duration {
	b.Helper()
	began := time.Now()
	b.eventually(fmt.Sprint(pods, " pods are covered"), func() error {
		if all := b.list(); len(all) != 1 || all[0].State != steer.Active || all[0].Pods != pods || all[0].Of != pods {
			return fmt.Errorf("%+v", all)
		}
		return nil
	})
	return time.Since(began)
}

func testReplicas(b *bay) {
	ada := b.laptop("ada")
	s := b.intercept("ada", "cart", "--port", ada.at(8080))
	b.load("/start?url="+strings.TrimSuffix(cart, "/"), nil)
	var got counts
	b.scale(3)
	b.soon("scaled: three pods are covered", b.covered(3), 2*time.Second)
	for range 6 {
		b.answers("ada", b.client(false, false), cart)
	}
	b.load("/stop", &got)
	b.Logf("scaled: %d requests and %d streams, answered %v, %d failed; slowest %.1f ms", got.Requests, got.Streams, got.By, got.Failed, got.Slowest)
	if got.By["ada"] == 0 || got.By["app"] > 0 || got.Failed > 0 {
		b.Errorf("scaled: %+v", got)
	}

	taken := func() int64 {
		all := b.list()
		if len(all) != 1 {
			b.Fatalf("there is %+v", all)
		}
		return all[0].Counters.Taken()
	}
	before := taken()
	b.load("/start?url="+strings.TrimSuffix(cart, "/"), nil)
	patch := `{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":"now"}}}}}`
	if _, err := client.AppsV1().Deployments(b.namespace).Patch(context(), "cart", types.MergePatchType, []byte(patch), meta.PatchOptions{}); err != nil {
		b.Fatal(err)
	}
	b.settled(3)
	b.soon("rolled out: three pods are covered", b.covered(3), 2*time.Second)
	b.back("ada", cart)
	for range 6 {
		b.answers("ada", b.client(false, false), cart)
	}
	got = counts{}
	b.load("/stop", &got)
	// Pods that end serve who still comes for 1.5 s. A node that hears of it later than
	// that loses some.
	b.Logf("rolled out: %d requests and %d streams were answered %v, %d failed %q; slowest %.1f ms", got.Requests, got.Streams, got.By, got.Failed, got.Errors, got.Slowest)
	if got.By["ada"] == 0 || got.By["app"] > 0 || got.Failed > 5 {
		b.Errorf("rolled out: %+v", got)
	}
	b.eventually("what the pods that have gone had counted is counted", func() error {
		if now := taken(); now < before+6 {
			return fmt.Errorf("%d requests, and %d before the rollout", now, before)
		}
		return nil
	})
	b.Logf("rolled out: %d requests are counted, and %d were before", taken(), before)
	b.leave(s)

	s = b.intercept("ada", "cart", "--port", ada.at(8080))
	if !strings.Contains(s.output.String(), "in force in 3 pods") {
		b.Errorf("it says %s", s.output)
	}
	for range 6 { // at once
		b.answers("ada", b.client(false, false), cart)
	}
	b.leave(s)
	b.scale(1)
	b.back("app", cart)
}

func testKilledAgent(b *bay) {
	ada := b.laptop("ada")
	b.intercept("ada", "cart", "--port", ada.at(8080))
	pod := b.pod("cart").Name
	began := time.Now()
	if err := syscall.Kill(b.processOf(pod, "/bight/agent", "run"), syscall.SIGKILL); err != nil {
		b.Fatal(err)
	}
	b.eventually("the container is started again", func() error {
		p, err := client.CoreV1().Pods(b.namespace).Get(context(), pod, meta.GetOptions{})
		if err == nil && (p.Status.ContainerStatuses[0].RestartCount == 0 || !p.Status.ContainerStatuses[0].Ready) {
			err = errors.New("not yet")
		}
		return err
	})
	ready := time.Since(began)
	b.back("ada", cart)
	b.Logf("the pod is ready %s after the agent was killed, the laptop answers after %s", ready.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	b.covered(1)
}

func testOverhead(b *bay) {
	var medians []float64
	b.load("/measure?a="+cart+"&b=http://"+b.pod("cart").Status.PodIP+":8080/", &medians)
	b.Logf("p50 from a pod: %.0f µs through the Service and the door, %.0f µs to the app's port; the difference is %.0f µs", medians[0], medians[1], medians[0]-medians[1])
}
