package control

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/kube/follow"
	"github.com/bightdev/bight/internal/release/verdict"
)

func policyOf(t *testing.T, name, expression string) runtime.Object {
	t.Helper()
	p := &v1alpha1.ReleasePolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), Generation: 1}}
	p.Spec.Rules = []v1alpha1.ReleaseRule{{Name: "small", Expression: expression}}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(p)
	if err != nil {
		t.Fatal(err)
	}
	return &unstructured.Unstructured{Object: fields}
}

func TestOrdersHoldIfAPolicyAllowsThem(t *testing.T) {
	c, _ := serving(t)
	co := underWay(t)
	steps := []struct {
		name   string
		change func(*v1alpha1.ReleaseOrders)
		take   *follow.Change // before it
		want   string         // the share that is in force, and whether something is refused
	}{
		{"nobody has ordered anything, and no policy was seen", func(*v1alpha1.ReleaseOrders) {}, nil, "none"},
		{"before the policies are seen", func(o *v1alpha1.ReleaseOrders) { o.By, o.Weight = "ada", ptr.To(intstr.FromInt32(10)) }, nil, "none"},
		{"when they are", nil, &follow.Change{All: []runtime.Object{policyOf(t, "p", "order.weight <= 20.0")}}, "10"},
		{"too much", func(o *v1alpha1.ReleaseOrders) { o.Weight = ptr.To(intstr.FromInt32(50)) }, nil, "10 refused"},
		{"again, by the same policy", nil, nil, "10 refused"},
		{"without the policy", nil, &follow.Change{Event: watch.Deleted, Object: policyOf(t, "p", "true")}, "50"},
		{"by a policy that can't be read", func(o *v1alpha1.ReleaseOrders) { o.Weight = ptr.To(intstr.FromInt32(1)) }, &follow.Change{Event: watch.Added, Object: policyOf(t, "q", "(")}, "50 refused"},
		{"undo", func(o *v1alpha1.ReleaseOrders) { o.Undo = true }, nil, "1 undo"},
	}
	for _, s := range steps {
		if s.take != nil {
			for _, m := range c.takePolicies(*s.take) {
				if (m.wrong == "") == (m.policy.Name == "q") {
					t.Errorf("%s: wrong with %s is %q", s.name, m.policy.Name, m.wrong)
				}
			}
		}
		if s.change != nil {
			s.change(&co.r.Spec.Orders)
			co.r.Generation++
		}
		co.heed(c.boundsOf("shop"))
		_, orders, err := co.wishes()
		if err != nil {
			t.Fatal(err)
		}
		got := "none"
		if orders.Weight != nil {
			got = fmt.Sprint(int(*orders.Weight) / 100)
		}
		if co.refused != nil {
			got += " refused"
			if x := co.refused; x.Generation > co.r.Generation || x.Orders.By != co.Heeded.By {
				t.Errorf("%s: the refusal is %+v", s.name, x)
			}
		}
		if orders.Undo {
			got += " undo"
		}
		if got != s.want {
			t.Errorf("%s: in force is %q, want %q", s.name, got, s.want)
		}
	}
	if b, known := c.boundsOf("other"); b != nil || !known {
		t.Errorf("of another namespace: %v, known %v", b, known)
	}
}

func TestARefusalIsTold(t *testing.T) {
	c, _ := serving(t)
	c.takePolicies(follow.Change{All: []runtime.Object{policyOf(t, "p", "order.weight <= 20.0")}})
	co := underWay(t)
	co.heed(c.boundsOf("shop"))
	co.note(co.State, verdict.Verdict{})
	co.r.Spec.Orders = v1alpha1.ReleaseOrders{By: "ada", Asked: "bob", Weight: ptr.To(intstr.FromInt32(50))}
	co.heed(c.boundsOf("shop"))
	co.note(co.State, verdict.Verdict{})
	s, err := co.status()
	if err != nil {
		t.Fatal(err)
	}
	last := s.Events[len(s.Events)-1].Text
	if s.Refused == nil || last != "ada has approved what bob asked for: 50 % of the requests; refused by policy p, rule small: rule small does not allow it" {
		t.Errorf("refused is %+v, told is %q", s.Refused, last)
	}
	// Another process goes on with it.
	co.r.Status = *s
	next, err := newCourse(co.r)
	if err != nil {
		t.Fatal(err)
	}
	if next.heed(c.boundsOf("shop")); next.refused == nil || next.Heeded.By != "" || !strings.Contains(refusedBy(next.refused), "policy p") {
		t.Errorf("after a restart: %+v, in force %+v", next.refused, next.Heeded)
	}
}
