package controller

import (
	"fmt"
	"log/slog"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/repo"
)

// TestWhatALaterChangeBroughtIsNotDeployedAfterIt has a branch's commit tested and held,
// and another made on top of it merged and deployed. The first is on the app's branch with
// that: it is no news to an environment that has the second.
func TestWhatALaterChangeBroughtIsNotDeployedAfterIt(t *testing.T) {
	r := newHistory(t)
	base := r.commit("base", "")
	first := r.commit("first", base)
	second := r.commit("second", first)
	if err := r.UpdateRef(t.Context(), "refs/heads/main", second, ""); err != nil {
		t.Fatal(err)
	}
	tree := func(commit string) string {
		c, err := r.Commit(t.Context(), commit)
		if err != nil {
			t.Fatal(err)
		}
		return c.Tree
	}

	app := &v1alpha1.App{Spec: v1alpha1.AppSpec{Branch: "main", Environments: []v1alpha1.Environment{{Name: "stage"}, {Name: "prod", Promotion: v1alpha1.Manual}}}}
	app.Namespace, app.Name, app.UID = "shop", "shop", "uid"
	passed := func(name, commit string, merge bool) *v1alpha1.Change {
		m := &v1alpha1.Change{Spec: v1alpha1.ChangeSpec{App: "shop", Commit: commit, Merge: merge}}
		m.Namespace, m.Name, m.Labels = "shop", name, map[string]string{v1alpha1.AppLabel: "shop"}
		m.Status.Steps = []v1alpha1.Step{{Name: v1alpha1.ReviewStep, State: v1alpha1.StepPassed}}
		m.Status.Runs = []v1alpha1.Run{{Base: tree(base), Changes: []string{name}, Heads: []string{commit}, Commit: commit, State: v1alpha1.RunPassed, Attempt: 1}}
		return m
	}
	held, later := passed("held", first, false), passed("later", second, true)
	at := metav1.NewMicroTime(time.Unix(1_700_000_100, 0))
	later.Status.Merged, later.Status.MergedAt, later.Status.MergedOnto, later.Status.MergedBy = second, &at, tree(base), "later"
	later.Status.Steps = append(later.Status.Steps, v1alpha1.Step{Name: "deploy/stage", State: v1alpha1.StepPassed})

	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	server := fake.NewClientBuilder().WithScheme(scheme).WithObjects(app, held, later).WithStatusSubresource(held).Build()
	c := &Controller{client: server, live: server, store: r.store, Log: slog.New(slog.DiscardHandler)}
	s, err := c.look(t.Context(), app)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.completeMerges(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if s, err = c.look(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	got := s.change("held")
	if got.Status.Merged != first || !got.Status.MergedAt.Time.Before(at.Time) {
		t.Errorf("merged as %q at %v, and the later one at %v", got.Status.Merged, got.Status.MergedAt, at)
	}
	if step := change.StepOf(got.Status.Steps, v1alpha1.MergeStep); step == nil || !strings.HasSuffix(step.Message, " since later") {
		t.Errorf("step %+v", step)
	}
	var deployed, along []string
	for _, a := range change.Decide(s.view) {
		switch a.Kind {
		case change.Deploy:
			deployed = append(deployed, a.Change+" to "+a.Environment)
		case change.Along:
			along = append(along, a.Change+" with "+a.By)
		}
	}
	if len(deployed) > 0 || len(along) != 1 || along[0] != "held with later" {
		t.Errorf("deployed %q, along %q", deployed, along)
	}
	if phase, current, message := change.Describe(s.view, got); phase == v1alpha1.Held || current != "deploy/stage" {
		t.Errorf("phase %q, at %q: %q", phase, current, message)
	}
}

// A branch that was set back has what it is at now as news, though a change that is not on
// it any more had brought that, too.
func TestABranchThatWasSetBackIsNews(t *testing.T) {
	r := newHistory(t)
	good := r.commit("good", "")
	wrong := r.commit("wrong", good)
	merged := func(name, commit string, at int64) *v1alpha1.Change {
		m, t := &v1alpha1.Change{}, metav1.NewMicroTime(time.Unix(at, 0))
		m.Name, m.Status.Merged, m.Status.MergedAt = name, commit, &t
		return m
	}
	s := &subject{repo: r.Repository, app: &v1alpha1.App{Spec: v1alpha1.AppSpec{Branch: "main"}}, tip: good}
	s.view.Changes = []*v1alpha1.Change{merged("good", good, 100), merged("wrong", wrong, 200)}
	run := v1alpha1.Run{Commit: good}
	c := &Controller{}
	if how := c.landed(t.Context(), s, run, 1); how.along || time.Since(how.at) > time.Minute {
		t.Errorf("set back: %+v", how)
	}
	s.tip = wrong
	if how := c.landed(t.Context(), s, run, 1); !how.along || !how.at.Before(time.Unix(100, 0)) {
		t.Errorf("on the branch since the first: %+v", how)
	}
}

// TestWhatWasNotTestedIsNotMerged has a run of another commit than merging its change gives.
func TestWhatWasNotTestedIsNotMerged(t *testing.T) {
	r := newHistory(t)
	base := r.commit("base", "")
	head, tested := r.commit("head", base), r.commit("tested", base)
	s := &subject{repo: r.Repository, app: &v1alpha1.App{Spec: v1alpha1.AppSpec{Branch: "main"}}, tip: base}
	m := &v1alpha1.Change{Spec: v1alpha1.ChangeSpec{Commit: head}}
	m.Name = "head"
	m.Status.Runs = []v1alpha1.Run{{Changes: []string{m.Name}, Heads: []string{head}, Commit: tested, State: v1alpha1.RunPassed, Attempt: 1}}
	s.view.Changes = []*v1alpha1.Change{m}
	wrote, err := (&Controller{}).merge(t.Context(), s, change.Action{Kind: change.Merge, Change: m.Name, Changes: []string{m.Name}})
	if wrote || err == nil || !strings.HasPrefix(err.Error(), "the result of merging has tree ") || strings.Contains(err.Error(), "%!") {
		t.Errorf("wrote %t: %v", wrote, err)
	}
}

// forked writes commits to a history, each beside the others on one base that the branch is
// at, and makes a subject of it and a change of each.
func forked(t *testing.T, h *history, app string, uid types.UID, files ...map[string]string) *subject {
	t.Helper()
	s := &subject{repo: h.Repository, app: &v1alpha1.App{Spec: v1alpha1.AppSpec{Branch: "main"}}, tip: h.commit("base", "")}
	s.app.Namespace, s.app.Name, s.app.UID = "shop", app, uid
	for i, f := range files {
		head := s.tip
		for _, name := range slices.Sorted(maps.Keys(f)) {
			head = h.write(head, fmt.Sprintf("%d: %s", i, name), name, f[name], 1_800_000_100)
		}
		m := &v1alpha1.Change{Spec: v1alpha1.ChangeSpec{App: app, Commit: head}}
		m.Name = string(rune('a' + i))
		s.view.Changes = append(s.view.Changes, m)
	}
	return s
}

// TestWhatIsMergedIsInTheRepositoryThatAsks merges the same commits for two Apps that follow
// one repository, for one that is made anew, and again after git has dropped the result.
func TestWhatIsMergedIsInTheRepositoryThatAsks(t *testing.T) {
	var k keyed
	files := []map[string]string{{"x": "1"}, {"y": "2"}}
	combine := func(s *subject) string {
		t.Helper()
		commits, err := k.combine(t.Context(), s, s.view.Changes)
		if err != nil {
			t.Fatal(err)
		}
		for _, commit := range commits {
			if _, err := s.repo.Commit(t.Context(), commit); err != nil {
				t.Errorf("%s of app %s: %v", commit, s.app.Name, err)
			}
		}
		return commits[len(commits)-1]
	}
	first := newHistory(t)
	s := forked(t, first, "shop", "1", files...)
	if err := first.UpdateRef(t.Context(), "refs/heads/main", s.tip, ""); err != nil {
		t.Fatal(err)
	}
	for _, m := range s.view.Changes {
		if err := keep(t.Context(), first.Repository, m.Spec.Commit); err != nil {
			t.Fatal(err)
		}
	}
	made := combine(s)
	if out, err := exec.Command("git", "--git-dir", first.Dir, "prune", "--expire=now").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := s.repo.Commit(t.Context(), made); err == nil {
		t.Error("git has not dropped what was made: nothing is tested")
	}
	combine(s)
	combine(forked(t, newHistory(t), "other", "2", files...))
	combine(forked(t, newHistory(t), "shop", "3", files...))

	k.forget(client.ObjectKeyFromObject(s.app))
	for m := range k.merges {
		if m.key.Name != "other" {
			t.Errorf("a merge of app %s is remembered", m.key.Name)
		}
	}
	if len(k.merges) == 0 {
		t.Error("nothing is remembered")
	}
}

// TestAConflictIsWithThoseThatHaveIt merges changes of which the last conflicts.
func TestAConflictIsWithThoseThatHaveIt(t *testing.T) {
	for name, test := range map[string]struct {
		files []map[string]string
		want  []string
	}{
		"with the second": {[]map[string]string{{"x": "1"}, {"y": "2"}, {"y": "3"}}, []string{"b"}},
		"with each":       {[]map[string]string{{"x": "1"}, {"x": "1", "y": "2"}, {"x": "3"}}, []string{"a", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			var k keyed
			s := forked(t, newHistory(t), "shop", "1", test.files...)
			if _, err := k.combine(t.Context(), s, s.view.Changes); !unmergeable(err) {
				t.Fatalf("no conflict but %v", err)
			}
			last := s.view.Changes[len(s.view.Changes)-1]
			if diff := cmp.Diff(map[string][]string{last.Name: test.want}, k.conflicts(s)); diff != "" {
				t.Errorf("conflicts (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAConflictThatTakesSeveralIsWithAll has a file renamed by one change and altered by
// another so much that git no longer sees that, and takes it for removed when a third alters
// it.
func TestAConflictThatTakesSeveralIsWithAll(t *testing.T) {
	h := newHistory(t)
	text := func(altered ...int) []byte {
		var lines []string
		for i := range 10 {
			lines = append(lines, fmt.Sprintf("line %d: %t\n", i, slices.Contains(altered, i)))
		}
		return []byte(strings.Join(lines, ""))
	}
	who := repo.Signature{Name: "Ada", Email: "ada@example.com", When: time.Unix(1_800_000_000, 0)}
	s := &subject{repo: h.Repository, app: &v1alpha1.App{}}
	for i, files := range []map[string][]byte{{"f": text()}, {"g": text(0, 1, 2, 3)}, {"f": text(7, 8, 9)}, {"f": text(5)}} {
		commit, err := h.WriteCommit(t.Context(), repo.Writing{Parent: s.tip, Files: files, Whole: true, Message: "m", Author: who, Committer: who})
		switch {
		case err != nil:
			t.Fatal(err)
		case i == 0:
			s.tip = commit
			continue
		}
		m := &v1alpha1.Change{Spec: v1alpha1.ChangeSpec{Commit: commit}}
		m.Name = string(rune('a' + i - 1))
		s.view.Changes = append(s.view.Changes, m)
	}
	var k keyed
	a, b, c := s.view.Changes[0], s.view.Changes[1], s.view.Changes[2]
	for _, together := range [][]*v1alpha1.Change{{a, b}, {a, c}, {b, c}} {
		if _, err := k.combine(t.Context(), s, together); err != nil {
			t.Fatalf("%s and %s: %v", together[0].Name, together[1].Name, err)
		}
	}
	if _, err := k.combine(t.Context(), s, s.view.Changes); !unmergeable(err) {
		t.Fatalf("no conflict but %v", err)
	}
	if diff := cmp.Diff(map[string][]string{"c": {"a", "b"}}, k.conflicts(s)); diff != "" {
		t.Errorf("conflicts (-want +got):\n%s", diff)
	}
}

// TestARunThatWasAbandonedIsStartedAgain cancels a change while it is tested with the next
// one, and has it done again: the queue wants the very run that was abandoned.
func TestARunThatWasAbandonedIsStartedAgain(t *testing.T) {
	h := newHistory(t)
	s := forked(t, h, "shop", "1", map[string]string{"x": "1"}, map[string]string{"y": "2"})
	if err := h.UpdateRef(t.Context(), "refs/heads/main", s.tip, ""); err != nil {
		t.Fatal(err)
	}
	s.app.Spec.Policy.Speculation = 1
	objects := []client.Object{s.app}
	for i, m := range s.view.Changes {
		m.Namespace, m.Labels = "shop", map[string]string{v1alpha1.AppLabel: "shop"}
		m.Spec.Merge, m.Spec.Order = true, int64(i)
		m.Status.Steps = []v1alpha1.Step{{Name: v1alpha1.ReviewStep, State: v1alpha1.StepPassed}}
		objects = append(objects, m)
	}
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	server := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(&v1alpha1.Change{}).Build()
	c := &Controller{client: server, live: server, store: h.store, Log: slog.New(slog.DiscardHandler)}
	// settle does what the queue says until there is nothing but work, and returns what runs.
	settle := func() (runs []string) {
		t.Helper()
		for range rounds {
			s, err := c.look(t.Context(), s.app)
			if err != nil {
				t.Fatal(err)
			}
			var wrote bool
			for _, a := range change.Decide(s.view) {
				var did bool
				switch a.Kind {
				case change.Start:
					did, err = c.start(t.Context(), s, a)
				case change.Abandon:
					did, err = true, c.abandon(t.Context(), s, a)
				case change.End:
					did, err = true, c.end(t.Context(), s, a)
				case change.Reset:
					did, err = true, c.reset(t.Context(), s, a)
				}
				if err != nil {
					t.Fatal(err)
				}
				wrote = wrote || did
			}
			if wrote {
				continue
			}
			for _, m := range s.view.Changes {
				for _, r := range m.Status.Runs {
					if r.State == v1alpha1.RunRunning {
						runs = append(runs, strings.Join(r.Changes, "+"))
					}
				}
			}
			return runs
		}
		t.Error("there is always something to write")
		return nil
	}
	ask := func(cancel bool, attempt int32) {
		t.Helper()
		m := &v1alpha1.Change{}
		if err := server.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "a"}, m); err != nil {
			t.Fatal(err)
		}
		m.Spec.Cancel, m.Spec.Attempt = cancel, attempt
		if err := server.Update(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	var got [][]string
	got = append(got, settle())
	ask(true, 0)
	got = append(got, settle())
	ask(false, 1)
	got = append(got, settle())
	if diff := cmp.Diff([][]string{{"a+b"}, {"b"}, {"a+b"}}, got); diff != "" {
		t.Errorf("runs (-want +got):\n%s", diff)
	}
}
