package ship

import (
	"testing"

	"github.com/bightdev/bight/api/v1alpha1"
)

// To ship with flags that say something else than the App is refused, with the command
// that alters the App; what they leave open is the App's to say.
func TestFlagsThatContradictTheAppAreRefused(t *testing.T) {
	a := &v1alpha1.App{}
	a.Name, a.Namespace = "shop", "shop"
	a.Spec.Branch = "main"
	a.Spec.Environments = []v1alpha1.Environment{
		{Name: "stage", Promotion: v1alpha1.Automatic, Namespace: "shop-s"},
		{Name: "prod", Promotion: v1alpha1.Manual, Release: &v1alpha1.ReleasePlan{Doubt: "undo"}},
	}
	stage, manual := v1alpha1.Environment{Name: "stage"}, v1alpha1.Environment{Name: "prod", Promotion: v1alpha1.Manual}
	canary := manual
	canary.Release = &v1alpha1.ReleasePlan{}
	blue := manual
	blue.Release = &v1alpha1.ReleasePlan{Strategy: v1alpha1.BlueGreen}
	for _, tt := range []struct {
		name string
		with Registration
		want string
	}{
		{"nothing", Registration{}, ""},
		{"the same", Registration{Branch: "main", Environments: []v1alpha1.Environment{stage, canary}}, ""},
		{"a branch", Registration{Branch: "next"}, `app shop in namespace shop is there already, and its branch is main, not next: bight ship without --branch ships to that
kubectl patch app shop -n shop --type merge -p '{"spec":{"branch":"next"}}' alters it`},
		{"an environment less", Registration{Environments: []v1alpha1.Environment{canary}}, `app shop in namespace shop is there already, and its environments are stage,prod:manual:canary, not prod:manual:canary: bight ship without --env ships to these
kubectl patch app shop -n shop --type merge -p '{"spec":{"environments":[{"name":"prod","promotion":"Manual","release":{"doubt":"undo"}}]}}' alters them`},
		{"another strategy", Registration{Environments: []v1alpha1.Environment{stage, blue}}, `app shop in namespace shop is there already, and its environments are stage,prod:manual:canary, not stage,prod:manual:blue-green: bight ship without --env ships to these
kubectl patch app shop -n shop --type merge -p '{"spec":{"environments":[{"name":"stage","namespace":"shop-s","promotion":"Automatic"},{"name":"prod","promotion":"Manual","release":{"strategy":"BlueGreen"}}]}}' alters them`},
	} {
		got := ""
		if err := otherwise(a, tt.with); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", tt.name, got, tt.want)
		}
	}
}
