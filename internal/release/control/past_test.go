package control

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/kube/follow"
	"github.com/bightdev/bight/internal/release"
)

// tried is a release that has ended.
func tried(uid string, at time.Time) *v1alpha1.Release {
	r := &v1alpha1.Release{}
	r.Namespace, r.Name, r.UID, r.Spec.Deployment = "shop", "cart-1", types.UID(uid), "cart"
	r.Spec.Orders.By = "ada"
	r.Status = v1alpha1.ReleaseStatus{
		Phase: string(release.Undone), Message: "E = 9000", Convicted: true, Started: micro(at), Ended: micro(at.Add(time.Second)),
		Verdict: &v1alpha1.VerdictStatus{Is: "bad", Why: "E = 9000,\n abort at 2000"},
	}
	return r
}

func TestAnAttemptIsSummedUp(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	want := v1alpha1.ReleaseAttempt{
		UID: "u", Phase: "Undone", Message: "E = 9000", Convicted: true, Verdict: "bad", Why: "E = 9000, abort at 2000", By: "ada",
		Began: micro(at), Ended: micro(at.Add(time.Second)),
	}
	if diff := cmp.Diff(want, attemptOf(tried("u", at))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	long := tried("u", at)
	long.Spec.Orders.By, long.Spec.Change, long.Status.Phase, long.Status.Message = "", "shop/x#1", "Progressing", strings.Repeat("é", 400)
	got := attemptOf(long)
	if got.By != "change shop/x#1" || !strings.HasPrefix(got.Message, "its Release was removed by force: é") || len(got.Message) > mostWords+10 || !utf8.ValidString(got.Message) {
		t.Errorf("%s: %s", got.By, got.Message)
	}
}

// An attempt is there once, whatever is heard of it; of many the last are kept, by their numbers.
func TestAttemptsAreCounted(t *testing.T) {
	var all []v1alpha1.ReleaseAttempt
	for i := range 12 {
		all = added(all, v1alpha1.ReleaseAttempt{UID: types.UID(fmt.Sprint(i)), Phase: "Progressing"})
		all = added(all, v1alpha1.ReleaseAttempt{UID: types.UID(fmt.Sprint(i)), Phase: "Undone"})
	}
	if len(all) != mostAttempts || all[0].Number != 3 || all[9].Number != 12 || all[9].Phase != "Undone" {
		t.Errorf("%d: %+v", len(all), all)
	}
}

// seen is an object as a watch has it.
func seen(t *testing.T, r *v1alpha1.Release) *unstructured.Unstructured {
	t.Helper()
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(r)
	if err != nil {
		t.Fatal(err)
	}
	return &unstructured.Unstructured{Object: object}
}

// A release is begun anew by removing its object and making another: how the one before went is
// told in the status of the next, also by a controller that has not seen it.
func TestAReleaseThatIsBegunAnewKnowsThoseBefore(t *testing.T) {
	c, _ := serving(t)
	c.past.dir = t.TempDir()
	at := time.Now().Add(-time.Minute)
	first := tried("1", at)
	c.take(follow.Change{Event: watch.Modified, Object: seen(t, first)})
	c.take(follow.Change{Event: watch.Deleted, Object: seen(t, first)})
	c.take(follow.Change{Event: watch.Deleted, Object: seen(t, tried("2", at))}) // of before this program came
	forced := tried("3", at)
	forced.Status.Phase, forced.Finalizers = string(release.Progressing), []string{finalizer}
	c.take(follow.Change{Event: watch.Deleted, Object: seen(t, forced)})

	next, _ := serving(t)
	next.past.dir = c.past.dir
	r := tried("4", at)
	r.Status = v1alpha1.ReleaseStatus{Attempts: []v1alpha1.ReleaseAttempt{{Number: 99, Phase: "Promoted", Message: "forged"}}}
	got, err := next.past.before(r)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, a := range got {
		told = append(told, fmt.Sprintf("%d %s %s", a.Number, a.UID, a.Phase))
	}
	if diff := cmp.Diff([]string{"1 1 Undone", "2 2 Undone", "3 3 Progressing"}, told); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	co, err := newCourse(r)
	if err != nil {
		t.Fatal(err)
	}
	co.attempts = got
	if s, err := co.status(); err != nil || len(s.Attempts) != 3 {
		t.Errorf("%v: %+v", err, s)
	}
	// Where nothing is kept, what was told stays told.
	r.Name = "cart-2"
	if got, err := next.past.before(r); err != nil || len(got) != 1 || got[0].Number != 99 {
		t.Errorf("%v: %+v", err, got)
	}
}

func TestWhatIsKeptOfReleasesIsRemovedInTime(t *testing.T) {
	p := &past{dir: t.TempDir()}
	for _, name := range []string{"old", "new"} {
		r := tried("1", time.Now())
		r.Namespace, r.Name = name, name
		if err := p.add(r); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-2 * keepPast)
	if err := os.Chtimes(p.file("old", "old"), long, long); err != nil {
		t.Fatal(err)
	}
	if err := p.sweep(time.Now().Add(-keepPast)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"old": 0, "new": 1} {
		if all, err := p.attempts(name, name); err != nil || len(all) != want {
			t.Errorf("%s: %d, %v", name, len(all), err)
		}
	}
	if left, err := os.ReadDir(p.dir); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}
