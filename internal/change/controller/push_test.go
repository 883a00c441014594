package controller

import (
	"log/slog"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/repo"
)

// TestAChangeEndsWithItsBranch deletes a branch, and pushes it again.
func TestAChangeEndsWithItsBranch(t *testing.T) {
	r := newHistory(t)
	app := &v1alpha1.App{Spec: v1alpha1.AppSpec{Branch: "main"}}
	app.Namespace, app.Name = "shop", "shop"
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	server := fake.NewClientBuilder().WithScheme(scheme).WithObjects(app).WithStatusSubresource(&v1alpha1.Change{}).Build()
	c := &Controller{client: server, live: server, store: r.store, Log: slog.New(slog.DiscardHandler)}
	push := func(branch, commit, want string) {
		t.Helper()
		ref := "refs/heads/" + branch
		old, _ := r.Resolve(t.Context(), ref)
		if err := r.UpdateRef(t.Context(), ref, commit, old); err != nil {
			t.Fatal(err)
		}
		lines, err := c.pushed(t.Context(), repo.Push{Namespace: "shop", App: "shop", Ref: ref, New: commit, User: repo.User{Name: "ada"}})
		if got := strings.Join(lines, "; "); err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("push %.7s to %s: %v, %q, want %q", commit, branch, err, got, want)
		}
	}
	of := func(commit string) *v1alpha1.Change {
		m := &v1alpha1.Change{}
		if err := server.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: change.Name("shop", commit)}, m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	ended := func(commit, phase string) {
		m := of(commit)
		m.Status.Phase = phase
		if err := server.Status().Update(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	one, two, shared := r.commit("one", ""), r.commit("two", ""), r.commit("shared", "")
	name := func(commit string) string { return change.Name("shop", commit) }

	push("fix", one, "change "+name(one)+": one")
	push("fix", two, "change "+name(two)+": two")
	if got := of(one).Spec.ReplacedBy; got != name(two) {
		t.Errorf("the first is replaced by %q", got)
	}
	ended(one, v1alpha1.Superseded)
	push("fix", one, "change "+name(one)+" has this commit and was superseded: it is done again")
	if m := of(one); m.Spec.ReplacedBy != "" || !change.Retried(m) {
		t.Errorf("pushed again: %+v", m.Spec)
	}
	if got := of(two).Spec.ReplacedBy; got != name(one) {
		t.Errorf("the second is replaced by %q", got)
	}
	ended(one, v1alpha1.Running)

	push("a", shared, "change "+name(shared)+": shared")
	push("b", shared, "change "+name(shared)+" has this commit already")
	push("a", "", "")
	if of(shared).Spec.Cancel {
		t.Error("a change is ended whose commit another branch is at")
	}
	ended(two, v1alpha1.Superseded)
	push("fix", "", "change "+name(one)+" ends with its branch: one")
	if m := of(one); !m.Spec.Cancel || m.Annotations[v1alpha1.ReasonAnnotation] != "branch fix was deleted" {
		t.Errorf("after its branch was deleted: %+v, %v", m.Spec, m.Annotations)
	}
	ended(one, v1alpha1.Cancelled)
	push("fix", one, "change "+name(one)+" has this commit and was cancelled: it is done again")
	if m := of(one); m.Spec.Cancel || !change.Retried(m) {
		t.Errorf("pushed again: %+v", m.Spec)
	}

	push("main", r.commit("on its way", ""), "change ")
	push("wanted", r.commit("wanted", ""), "change ")
	m := of(r.commit("wanted", ""))
	m.Spec.Merge = true
	if err := server.Update(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	push("wanted", "", "")
	if of(r.commit("wanted", "")).Spec.Cancel {
		t.Error("a change is ended that is to be merged")
	}
}
