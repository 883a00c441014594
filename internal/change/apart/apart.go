// Package apart runs the tests that strangers have made: as pods that can reach nothing
// and have nothing, in a namespace of their own.
//
// The main type is [Runner]. A worker has compiled the tests and put them into an image
// ([Suite]); here each Go package becomes a pod under Pod Security "restricted", whose
// log is read into the same results that package suite gives for tests of one's own. A
// Runner is for one run; it waits for the goroutines that it starts.
package apart

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"golang.org/x/sync/errgroup"

	"github.com/bightdev/bight/internal/change/suite"
)

// File is the name of the file in which a worker leaves a [Suite], as JSON.
const File = "programs.json"

// Where things are in the image, below its root for files.
const (
	Source   = "src"   // the repository
	Programs = "tests" // compiled tests, and test2json
)

// Suite is what a worker has made of a commit: an image, and which programs are in it.
type Suite struct {
	Image string `json:"image"` // by digest
	// Directory is that of the app in the repository, which the units' are relative to.
	Directory string          `json:"directory,omitempty"`
	Programs  []suite.Program `json:"programs"`
}

// Limits are what the tests of one Go package may use. Zero fields have the defaults
// given here, which are lower than those for tests of one's own.
type Limits struct {
	Time      time.Duration // 10 min
	Processes int           // 2048, with threads
	Memory    int64         // bytes: 2 GiB
	Disk      int64         // bytes: 2 GiB
}

func (l Limits) withDefaults() Limits {
	l.Time = cmp.Or(l.Time, 10*time.Minute)
	l.Processes = cmp.Or(l.Processes, 2048)
	l.Memory = cmp.Or(l.Memory, 2<<30)
	l.Disk = cmp.Or(l.Disk, 2<<30)
	return l
}

// Labels that a namespace for tests has, besides those that tell whose it is. Nothing
// that Pod Security "restricted" forbids starts there, whatever anybody asks for.
func Labels() map[string]string {
	const security = "pod-security.kubernetes.io/"
	return map[string]string{security + "enforce": "restricted", security + "audit": "restricted", security + "warn": "restricted"}
}

// Runner runs the programs of one suite.
type Runner struct {
	Client kubernetes.Interface
	// Namespace is there, with [Labels], and nobody else's.
	Namespace string
	Limits    Limits
	// Output gets what the tests print.
	Output io.Writer
	Log    *slog.Logger
}

// atOnce is how many pods of one run there are at a time.
const atOnce = 4

// Isolation is what results tell of where the tests ran.
const Isolation = "pods"

// Run runs all programs and returns what they showed. The error tells that they could
// not be run, which is not the tests' fault.
func (r *Runner) Run(ctx context.Context, s Suite) (*suite.Result, error) {
	began := time.Now()
	limits := r.Limits.withDefaults()
	if err := r.closeOff(ctx); err != nil {
		return nil, err
	}
	out := &shared{w: r.Output}
	results := make([]*suite.Result, len(s.Programs))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i, p := range s.Programs {
		g.Go(func() (err error) {
			results[i], err = r.unit(ctx, s, p, limits, out)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	all := suite.Merge(append(results, &suite.Result{Isolation: Isolation})...)
	all.Seconds = time.Since(began).Seconds()
	return all, nil
}

// shared is a writer for several goroutines. It never fails: a log that is not kept is
// no reason to stop.
type shared struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *shared) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.w != nil {
		_, _ = s.w.Write(b)
	}
	return len(b), nil
}

// account is the pods' ServiceAccount: it may do nothing, and has no token.
const account = "tests"

// closeOff keeps the namespace's pods from all networks, where the cluster's network
// plugin does what a NetworkPolicy says, and from the API.
func (r *Runner) closeOff(ctx context.Context) error {
	who := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}, AutomountServiceAccountToken: new(bool)}
	_, err := r.Client.CoreV1().ServiceAccounts(r.Namespace).Create(ctx, who, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make a service account for tests: %w", err)
	}
	policy := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "nothing"},
		Spec:       networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}},
	}
	_, err = r.Client.NetworkingV1().NetworkPolicies(r.Namespace).Create(ctx, policy, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("keep namespace %s from the network: %w", r.Namespace, err)
	}
	return nil
}

// unit runs the tests of one package, and those that failed once more, alone.
func (r *Runner) unit(ctx context.Context, s Suite, p suite.Program, limits Limits, out io.Writer) (*suite.Result, error) {
	first, err := r.once(ctx, s, p, limits, out)
	if err != nil {
		return nil, err
	}
	all := &suite.Result{Units: []suite.UnitResult{first}}
	if names := first.Suspects(); len(names) > 0 {
		fmt.Fprintf(out, "--- %s: %d tests failed; once more, alone\n", p.Name, len(names))
		second, err := r.once(ctx, s, p, limits, out, "-test.run="+suite.Pattern(names))
		if err != nil {
			return nil, err
		}
		all.Flakes = all.Units[0].Again(second)
	}
	return all, nil
}

// once runs a program in a pod, which is gone afterwards.
func (r *Runner) once(ctx context.Context, s Suite, p suite.Program, limits Limits, out io.Writer, args ...string) (suite.UnitResult, error) {
	pods := r.Client.CoreV1().Pods(r.Namespace)
	pod, err := pods.Create(ctx, podOf(s, p, limits, user(), args), metav1.CreateOptions{})
	if err != nil {
		return suite.UnitResult{}, fmt.Errorf("make a pod for the tests of %s: %w", p.Name, err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		now := int64(0)
		if err := pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil && !apierrors.IsNotFound(err) {
			r.Log.Info("a pod of tests goes with its namespace only", "pod", pod.Name, "err", err)
		}
	}()
	reading := suite.NewReading(p.Unit, out)
	w := &watched{runner: r, pod: pod.Name, reading: reading}
	last, err := w.follow(ctx)
	if err != nil {
		return suite.UnitResult{}, fmt.Errorf("run the tests of %s: %w", p.Name, err)
	}
	e := endOf(last, limits)
	if w.tooMuch {
		e = end{stop: suite.StopDisk, reason: fmt.Sprintf("it printed more than %d MiB", maxOutput>>20)}
	}
	if e.err != nil {
		return suite.UnitResult{}, fmt.Errorf("run the tests of %s: %w", p.Name, e.err)
	}
	res, err := reading.Result(e.stop, e.reason, e.code)
	if err == nil && e.stop != "" {
		fmt.Fprintf(out, "--- %s was stopped: %s\n", p.Name, e.reason)
	}
	return res, err
}

// user is a number that no other pod's processes on a node have: the kernel counts
// processes by user.
func user() int64 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // it never fails
	return 1_000_000 + int64(binary.BigEndian.Uint32(b[:])%1_000_000_000)
}

// end is how a pod ended.
type end struct {
	stop   suite.Stop
	reason string
	code   int
	err    error // it says nothing of the tests
}

var errVanished = errors.New("somebody has deleted its pod")

// endOf tells what ended a pod. Its container's own words on that are the last to be
// believed: what runs in there can write them, too.
func endOf(pod *corev1.Pod, limits Limits) end {
	if pod == nil {
		return end{err: errVanished}
	}
	switch pod.Status.Reason {
	case "Evicted":
		return end{stop: suite.StopDisk, reason: fmt.Sprintf("its pod was evicted, it may write %d MiB: %s", limits.Disk>>20, pod.Status.Message)}
	case "DeadlineExceeded":
		return end{stop: suite.StopTime, reason: fmt.Sprintf("it took longer than %s", limits.Time)}
	}
	i := slices.IndexFunc(pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.State.Terminated != nil })
	if i < 0 {
		return end{err: fmt.Errorf("its pod ended without having run: %s %s", pod.Status.Reason, pod.Status.Message)}
	}
	t := pod.Status.ContainerStatuses[i].State.Terminated
	if t.Reason == "OOMKilled" {
		return end{stop: suite.StopMemory, reason: fmt.Sprintf("it needed more than %d MiB of memory", limits.Memory>>20), code: int(t.ExitCode)}
	}
	if stop, reason, ok := told(t.Message); ok {
		return end{stop: stop, reason: reason, code: int(t.ExitCode)}
	}
	if t.Reason == "StartError" || t.Reason == "ContainerCannotRun" {
		return end{err: fmt.Errorf("its container does not start: %s", t.Message)}
	}
	return end{code: int(t.ExitCode)}
}
