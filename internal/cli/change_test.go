package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change/client"
	"github.com/bightdev/bight/internal/change/ship"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/ui/term"
)

// A step that runs for long waits for one thing after the other: who follows the change
// is told what it waits for now, and not what that was when it began.
func TestTheTimelineSaysWhatAStepWaitsForNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		printer := term.New(term.Config{Out: term.Stream{W: &out}, Err: term.Stream{W: &out}})
		l := newTimeline(printer)
		began := metav1.NewMicroTime(time.Now())
		at := func(message string) *v1alpha1.Change {
			return &v1alpha1.Change{Status: v1alpha1.ChangeStatus{Phase: v1alpha1.Running, Steps: []v1alpha1.Step{
				{Name: "deploy/prod", State: v1alpha1.StepRunning, Started: &began, Message: message},
			}}}
		}
		l.show(at("applying to shop-prod"))
		l.show(at("cart: 10 % of the requests: no requests to the canary yet"))
		synctest.Wait()
		time.Sleep(15 * time.Second) // of the bubble
		synctest.Wait()
		l.show(at("cart: 50 % of the requests"))
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if err := printer.Close(); err != nil {
			t.Fatal(err)
		}
		first, second, _ := strings.Cut(out.String(), "\n")
		if !strings.Contains(first, "prod: cart: 10 % of the requests: no requests to the canary yet (10 s)") {
			t.Errorf("after 10 s: %q", first)
		}
		if !strings.Contains(second, "prod: cart: 50 % of the requests (30 s)") {
			t.Errorf("after 30 s: %q", second)
		}
	})
}

func TestARunningStepHasItsTime(t *testing.T) {
	began := metav1.NewMicroTime(noon.Add(-90 * time.Second))
	c := &v1alpha1.Change{}
	c.Name = "shop-1"
	c.Status.Phase = v1alpha1.Running
	c.Status.Steps = []v1alpha1.Step{{Name: "deploy/prod", State: v1alpha1.StepRunning, Started: &began, Message: "cart: 10 %"}, {Name: "deploy/far", State: v1alpha1.StepWaiting}}
	got := lines(changeTable(c, noon))
	if want := "deploy/prod|running|1 min 30 s|cart: 10 %"; got[1] != want {
		t.Errorf("%q, want %q", got[1], want)
	}
}

// TestALogThatIsNotGivenIsNotEmpty has a controller that answers for the logs of two
// steps, of which the first has printed nothing.
func TestALogThatIsNotGivenIsNotEmpty(t *testing.T) {
	c := &v1alpha1.Change{}
	c.Name = "shop-1"
	c.Status.Steps = []v1alpha1.Step{{Name: "review", Log: "team/shop-1/review.log"}, {Name: "test", Log: "team/shop-1/test.log"}}
	for _, tt := range []struct {
		name   string
		status int // of the answer about the second; 0 cuts it off, -1 interrupts us, too
		want   int // exit code
		prints string
	}{
		{"it is there", http.StatusOK, 0, "ok\n"},
		{"it has printed nothing", http.StatusNotFound, exitNotFound, ""},
		{"no right", http.StatusForbidden, exitNotPermitted, ""},
		{"unknown", http.StatusUnauthorized, exitNotPermitted, ""},
		{"the controller fails", http.StatusInternalServerError, exitFailed, ""},
		{"the connection is lost", 0, exitFailed, ""},
		{"interrupted", -1, exitInterrupted, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case strings.HasSuffix(r.URL.Path, "/review.log"):
					http.Error(w, "no such file", http.StatusNotFound)
				case tt.status == http.StatusOK:
					fmt.Fprintln(w, "ok")
				case tt.status > 0:
					w.WriteHeader(tt.status)
				default:
					if tt.status < 0 {
						interrupt()
					}
					panic(http.ErrAbortHandler)
				}
			}))
			defer server.Close()
			var out bytes.Buffer
			p := &Program{Stdout: &out, Stderr: io.Discard}
			s := &ship.Shipper{Client: &client.Client{
				Cluster: kube.New(&rest.Config{BearerToken: "t"}, "", ""), Address: server.Listener.Addr().String(),
			}}
			err := p.changeLogs(ctx, s, c, nil, false)
			if got := exitCode(ctx, err); got != tt.want || out.String() != tt.prints {
				t.Errorf("exit code %d (%v), want %d; it prints %q", got, err, tt.want, out.String())
			}
		})
	}
}

func TestAStepSaysWhatItDoes(t *testing.T) {
	for want, s := range map[string]v1alpha1.Step{
		"reviewing":                      {Name: "review"},
		"testing: checking out 200 MiB":  {Name: "test", Message: "checking out 200 MiB"},
		"prod: cart: 10 % of the canary": {Name: "deploy/prod", Message: "cart: 10 % of the canary"},
	} {
		if got := doing(s); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Who is refused is told where the rest of it is that the step has said.
func TestARefusalSaysWhereTheLogIs(t *testing.T) {
	c := &v1alpha1.Change{}
	c.Name, c.Namespace = "shop-1", "team"
	c.Status.Phase, c.Status.Message = v1alpha1.Refused, "test: no luck"
	c.Status.Steps = []v1alpha1.Step{{Name: "build", State: v1alpha1.StepPassed, Log: "b"}, {Name: "test", State: v1alpha1.StepFailed, Log: "t"}}
	want := "change shop-1 was refused: test: no luck\nall that it has printed: bight change logs shop-1 test -n team"
	if err := concluded(c, nil); err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	c.Status.Steps[1].Message = "no luck" // the timeline has said it
	want = "change shop-1 was refused: test failed, as above\nall that it has printed: bight change logs shop-1 test -n team"
	if err := concluded(c, nil); err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	c.Status.Message, c.Status.Steps = "it can't be merged", nil
	if err := concluded(c, nil); err == nil || err.Error() != "change shop-1 was refused: it can't be merged" {
		t.Errorf("without a step that failed: %v", err)
	}
}

// What somebody decides about a change is refused where it would change nothing.
func TestDecisionsThatChangeNothingAreRefused(t *testing.T) {
	a := &v1alpha1.App{}
	a.Name = "shop"
	a.Spec.Environments = []v1alpha1.Environment{{Name: "stage", Promotion: v1alpha1.Automatic}, {Name: "prod", Promotion: v1alpha1.Manual}}
	c := func(edit func(*v1alpha1.Change)) *v1alpha1.Change {
		c := &v1alpha1.Change{}
		c.Name, c.Status.Phase = "shop-1", v1alpha1.Running
		edit(c)
		return c
	}
	nothing := func(*v1alpha1.Change) {}
	isMerged := func(c *v1alpha1.Change) { c.Status.Merged = "f689586966df0123" }
	try := func(c *v1alpha1.Change) error { _, err := cancel(t.Context(), nil, c, nil); return err }
	for _, tt := range []struct {
		what string
		err  error
		want string
	}{
		{"cancel", try(c(nothing)), ""},
		{"cancel what has ended", try(c(func(c *v1alpha1.Change) { c.Status.Phase = v1alpha1.Refused })), "change shop-1 is refused: there is nothing to end"},
		{"cancel what is merged", try(c(isMerged)), "change shop-1 is merged, and what is merged goes on: git revert f689586966df and bight ship take it back"},
		{"cancel twice", try(c(func(c *v1alpha1.Change) { c.Spec.Cancel = true })), "change shop-1 is to end already"},
		{"promote", promotable(a, c(isMerged), "prod"), ""},
		{"promote to nowhere", promotable(a, c(isMerged), "nowhere"), "app shop has no environment nowhere; it has stage, prod"},
		{"promote twice", promotable(a, c(func(c *v1alpha1.Change) { c.Spec.Promote = []string{"prod"} }), "prod"), "change shop-1 was promoted to prod already"},
		{"promote what was refused", promotable(a, c(func(c *v1alpha1.Change) { isMerged(c); c.Status.Phase = v1alpha1.Refused }), "prod"), "change shop-1 has been refused and goes on to no environment: bight change retry shop-1 does again what has failed"},
		{"promote what is deployed", promotable(a, c(func(c *v1alpha1.Change) { isMerged(c); c.Status.Phase = v1alpha1.Deployed }), "prod"), "change shop-1 is deployed: there is nothing to promote"},
		{"promote to what waits for nobody", promotable(a, c(isMerged), "stage"), "changes of app shop go on to stage by themselves: bight change show shop-1 says how far this one is"},
		{"merge what was refused", errOf(merge(t.Context(), nil, c(func(c *v1alpha1.Change) {
			c.Spec.Merge, c.Status.Phase, c.Status.Message = true, v1alpha1.Refused, "it conflicts"
		}), nil)), "change shop-1 is refused: it conflicts"},
		{"no log at all", noLog(c(func(c *v1alpha1.Change) { c.Status.Message = "it conflicts" }), nil), "change shop-1 has no log, since no step of it was done: it conflicts"},
		{"no such log", noLog(c(func(c *v1alpha1.Change) { c.Status.Steps = []v1alpha1.Step{{Name: "test", Log: "x"}, {Name: "merge"}} }), []string{"tets"}), "change shop-1 has no log of step tets; there is one of test"},
	} {
		got := ""
		if tt.err != nil {
			got = tt.err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.what, got, tt.want)
		}
	}
}

func errOf(_ map[string]any, err error) error { return err }

// What a step has left is found by its name; what else its evidence says is no file.
func TestResultsOfAChangeAreItsFiles(t *testing.T) {
	c := &v1alpha1.Change{}
	c.Namespace, c.Name = "shop", "shop-1"
	c.Status.Steps = []v1alpha1.Step{
		{Name: "review", Log: "shop/shop-1/review.log", Evidence: map[string]string{"review.sarif": "shop/shop-1/1-review.sarif"}},
		{Name: "deploy/prod", Evidence: map[string]string{"commit": "0c5199ed45ea", "with": "shop-2", "odd": "shop/shop-2/1-review.sarif"}},
	}
	if diff := cmp.Diff(map[string]string{"review.sarif": "shop/shop-1/1-review.sarif"}, resultsOf(c)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	want := "change shop-1 has no log of step junit.xml; there is one of review; and the files review.sarif"
	if got := noLog(c, []string{"junit.xml"}).Error(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestTheLinesOfAResultAreToldApart(t *testing.T) {
	c := &v1alpha1.Change{}
	c.Name = "shop-1"
	c.Status.Phase = v1alpha1.Refused
	c.Status.Steps = []v1alpha1.Step{{Name: "deploy/prod", State: v1alpha1.StepFailed, Message: "the cluster refuses  its pods\n\nwhat was there before is back"}}
	got := lines(changeTable(c, noon))
	if want := "deploy/prod|✗ failed||the cluster refuses its pods; what was there before is back"; got[1] != want {
		t.Errorf("%q, want %q", got[1], want)
	}
}

// A merge is written down before the end of the tests that allowed it; who reads the
// timeline is not to think that it came first.
func TestTheTimelineHasTheMergeAfterTheTests(t *testing.T) {
	var out bytes.Buffer
	printer := term.New(term.Config{Out: term.Stream{W: &out}, Err: term.Stream{W: &out}})
	l := newTimeline(printer)
	began, ended := metav1.NewMicroTime(noon), metav1.NewMicroTime(noon.Add(time.Second))
	test := v1alpha1.Step{Name: "test", State: v1alpha1.StepRunning, Started: &began}
	merge := v1alpha1.Step{Name: "merge", State: v1alpha1.StepPassed, Started: &ended, Ended: &ended, Message: "main is at f689586966df"}
	at := func(steps ...v1alpha1.Step) {
		l.show(&v1alpha1.Change{Status: v1alpha1.ChangeStatus{Phase: v1alpha1.Running, Steps: steps}})
	}
	at(test, merge)
	test.State, test.Ended, test.Message = v1alpha1.StepPassed, &ended, "9 tests passed"
	at(test, merge)
	if err := printer.Close(); err != nil {
		t.Fatal(err)
	}
	tested, merged := strings.Index(out.String(), "9 tests passed"), strings.Index(out.String(), "main is at")
	if tested < 0 || merged < tested {
		t.Errorf("the timeline:\n%s", out.String())
	}
}

// Who begins to follow a change late reads when its steps have ended, in that order, and not when that is printed.
func TestTheTimelineHasTheTimesOfTheSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := func(ago time.Duration) *metav1.MicroTime {
			when := metav1.NewMicroTime(time.Now().Add(-ago))
			return &when
		}
		c := &v1alpha1.Change{Status: v1alpha1.ChangeStatus{Phase: v1alpha1.Running, Steps: []v1alpha1.Step{
			{Name: "review", State: v1alpha1.StepPassed, Started: at(2 * time.Hour), Ended: at(time.Hour), Message: "nothing found"},
			{Name: "build", State: v1alpha1.StepPassed, Started: at(2 * time.Hour), Ended: at(90 * time.Minute), Message: "built cart"},
			{Name: "test", State: v1alpha1.StepFailed, Started: at(2 * time.Hour), Ended: at(30 * time.Minute), Message: "no luck"},
			{Name: "deploy/prod", State: v1alpha1.StepRunning, Started: at(25 * time.Second), Message: "applying"},
		}}}
		var text, events bytes.Buffer
		printer := term.New(term.Config{Err: term.Stream{W: &text}, Events: &events, Zone: time.UTC})
		newTimeline(printer).show(c)
		time.Sleep(5 * time.Second) // of the bubble
		synctest.Wait()
		if err := printer.Close(); err != nil {
			t.Fatal(err)
		}
		want := `22:30:00 ✓ build  30 min 0 s  built cart
23:00:00 ✓ review 1 h 0 min  nothing found
23:30:00 ✗ test: no luck
00:00:05 · still prod: applying (30 s)
`
		if diff := cmp.Diff(want, text.String()); diff != "" {
			t.Errorf("the timeline (-want +got):\n%s", diff)
		}
		var got []string
		for line := range bytes.Lines(events.Bytes()) {
			var e struct {
				Time       time.Time
				Type, Step string
			}
			if err := json.Unmarshal(line, &e); err != nil {
				t.Fatal(err)
			}
			got = append(got, e.Time.Format("15:04:05 ")+e.Type+" "+e.Step)
		}
		if diff := cmp.Diff([]string{"22:30:00 build build", "23:00:00 review review", "23:30:00 error test", "00:00:05 note deploy/prod"}, got); diff != "" {
			t.Errorf("the events (-want +got):\n%s", diff)
		}
		if end := endOf(c); !end.Equal(c.Status.Steps[2].Ended.Time) {
			t.Errorf("it has ended at %s", end)
		}
	})
}
