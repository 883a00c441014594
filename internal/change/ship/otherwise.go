package ship

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/bightdev/bight/api/v1alpha1"
)

// OtherwiseError says that an App that is there is not what somebody asks for.
type OtherwiseError struct{ text string }

func (e *OtherwiseError) Error() string { return e.text }

// otherwise refuses what contradicts the App. To ship must not alter silently where
// everybody's changes go, nor leave out silently what was asked for.
func otherwise(a *v1alpha1.App, with Registration) error {
	if branch := cmp.Or(a.Spec.Branch, "main"); with.Branch != "" && with.Branch != branch {
		return &OtherwiseError{fmt.Sprintf("app %s in namespace %s is there already, and its branch is %s, not %s: bight ship without --branch ships to that\n%s alters it",
			a.Name, a.Namespace, branch, with.Branch, patch(a, map[string]any{"branch": with.Branch}))}
	}
	if len(with.Environments) == 0 || slices.EqualFunc(a.Spec.Environments, with.Environments, same) {
		return nil
	}
	return &OtherwiseError{fmt.Sprintf("app %s in namespace %s is there already, and its environments are %s, not %s: bight ship without --env ships to these\n%s alters them",
		a.Name, a.Namespace, flag(a.Spec.Environments), flag(with.Environments), patch(a, map[string]any{"environments": merged(a.Spec.Environments, with.Environments)}))}
}

// same reports whether an environment of an App is what --env says of it. The namespace
// and the details of the plan are the App's alone to say.
func same(is, want v1alpha1.Environment) bool {
	return is.Name == want.Name && word(is) == word(want)
}

// merged is the environments that are wanted, with what the App says of those that it has.
func merged(is, want []v1alpha1.Environment) []v1alpha1.Environment {
	var out []v1alpha1.Environment
	for _, w := range want {
		if i := slices.IndexFunc(is, func(e v1alpha1.Environment) bool { return e.Name == w.Name }); i >= 0 {
			w.Namespace = is[i].Namespace
			if same(is[i], w) {
				w = is[i]
			}
		}
		out = append(out, w)
	}
	return out
}

// flag is environments as one would give them to --env.
func flag(all []v1alpha1.Environment) string {
	var words []string
	for _, e := range all {
		words = append(words, word(e))
	}
	return strings.Join(words, ",")
}

func word(e v1alpha1.Environment) string {
	out := e.Name
	if e.Promotion == v1alpha1.Manual {
		out += ":manual"
	}
	if e.Release != nil {
		strategies := map[string]string{v1alpha1.BlueGreen: "blue-green", v1alpha1.ABTest: "ab", v1alpha1.Mirror: "mirror"}
		out += ":" + cmp.Or(strategies[string(e.Release.Strategy)], "canary")
	}
	return out
}

// patch is the command that alters the App's spec.
func patch(a *v1alpha1.App, spec map[string]any) string {
	b, err := json.Marshal(map[string]any{"spec": spec})
	if err != nil {
		return fmt.Sprintf("kubectl edit app %s -n %s", a.Name, a.Namespace)
	}
	return fmt.Sprintf("kubectl patch app %s -n %s --type merge -p '%s'", a.Name, a.Namespace, strings.ReplaceAll(string(b), "'", `'\''`))
}
