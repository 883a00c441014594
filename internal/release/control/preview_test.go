package control

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
)

func TestThePreviewLeadsToTheNewPodsAlone(t *testing.T) {
	s := stage()
	s.service.Spec.Ports[0].NodePort = 30080
	r := &v1alpha1.Release{ObjectMeta: metav1.ObjectMeta{Name: "cart-2", Namespace: "shop", UID: "r"}}
	p := previewOf(s.service, r, "two")
	if p.Name != "cart-preview" || p.Spec.Selector[hashLabel] != "two" || p.Spec.Selector["app"] != "cart" || p.Spec.Ports[0].NodePort != 0 {
		t.Errorf("%+v", p)
	}
	if s.service.Spec.Selector[hashLabel] != "" || s.service.Spec.Ports[0].NodePort != 30080 {
		t.Errorf("the Service itself has changed: %+v", s.service.Spec)
	}
	if !previews(p, "r") || previews(p, "another") || previews(s.service, "r") {
		t.Error("nobody knows whose preview it is")
	}
	// Nobody has it select the old pods, or any.
	s.add("two", 1)
	s.services = []*corev1.Service{s.service, p}
	if all := s.leading(); len(all) != 1 || all[0] != s.service {
		t.Errorf("leading: %d", len(all))
	}
	s.service.Spec.Selector[hashLabel] = "one"
	if all := s.pinned(); len(all) != 1 || all[0] != s.service {
		t.Errorf("pinned: %d", len(all))
	}
}

func TestWhatIsJudgedWhileThePodsOfBeforeAreKept(t *testing.T) {
	for _, tt := range []struct {
		phase            release.Phase
		kept, retired    bool
		want, wantCourse bool
	}{
		{release.Progressing, false, false, true, true},
		{release.Promoting, false, false, true, true},
		{release.Promoted, false, false, false, false},
		{release.Promoted, true, false, true, true},
		{release.Promoted, true, true, false, false},
		{release.Undone, true, false, false, false},
	} {
		r := &v1alpha1.Release{}
		r.Spec.Plan.Judge.Kept = tt.kept
		r.Status.Phase, r.Status.Route = string(tt.phase), &v1alpha1.Routing{Retire: tt.retired}
		if got := judged(r); got != tt.want {
			t.Errorf("%+v: evidence is taken: %v", tt, got)
		}
		co := &course{r: r}
		co.State.Phase, co.State.Cleaned = tt.phase, tt.retired
		if got := co.judging(); got != tt.wantCourse {
			t.Errorf("%+v: it is judged: %v", tt, got)
		}
	}
}
