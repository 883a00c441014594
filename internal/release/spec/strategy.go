package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
)

// Strategies are the words for plans, as people write them, and what the API calls them.
var Strategies = []struct{ Word, Name string }{
	{"canary", v1alpha1.CanaryStrategy}, {"blue-green", v1alpha1.BlueGreen}, {"ab", v1alpha1.ABTest}, {"mirror", v1alpha1.Mirror},
}

// StrategyOf reads a word for a plan, and says which there are.
func StrategyOf(word string) (name string, err error) {
	var words []string
	for _, s := range Strategies {
		if s.Word == word {
			return s.Name, nil
		}
		words = append(words, s.Word)
	}
	return "", fmt.Errorf("there is no strategy %q: it is %s", word, strings.Join(words, ", "))
}

// Word is what people call a plan's strategy.
func Word(p v1alpha1.ReleasePlan) string {
	for _, s := range Strategies {
		if s.Name == p.Strategy {
			return s.Word
		}
	}
	return "canary"
}

const (
	// PreviewHeader is on requests that get the preview of a BlueGreen without routes of its
	// own, with [PreviewValue].
	PreviewHeader = "x-preview"
	PreviewValue  = "true"
	// VersionCookie tells an ABTest without an affinity of its own which version a client has.
	VersionCookie = "bight-version"
)

// What strategies say where a plan does not.
const (
	blueGreenKeep = 10 * time.Minute
	smoke         = 30 * time.Second
	mirrored      = 5 * time.Minute
)

// Previewed says whether a plan's new pods have a Service of their own while it runs.
func Previewed(p v1alpha1.ReleasePlan) bool { return p.Strategy == v1alpha1.BlueGreen }

// PreviewService is what that is called.
func PreviewService(service string) string { return service + "-preview" }

// Expand says what a plan's strategy means. What the plan says itself stays, so that to
// expand it again changes nothing, and a plan without a strategy is as it was.
func Expand(p v1alpha1.ReleasePlan) v1alpha1.ReleasePlan {
	p = *p.DeepCopy()
	switch p.Strategy {
	case v1alpha1.BlueGreen:
		return blueGreen(p)
	case v1alpha1.ABTest:
		return abTest(p)
	case v1alpha1.Mirror:
		return mirror(p)
	}
	return p
}

// blueGreen makes all pods, shows them to who looks for them, and waits for a word.
func blueGreen(p v1alpha1.ReleasePlan) v1alpha1.ReleasePlan {
	if p.Then == "" {
		p.Then = v1alpha1.ThenHold
	}
	if p.For == nil && p.Then != v1alpha1.ThenHold {
		p.For = &metav1.Duration{Duration: smoke}
	}
	if p.Keep == nil {
		p.Keep = &metav1.Duration{Duration: blueGreenKeep}
	}
	p.Judge.Kept = true
	if len(p.Routes) == 0 {
		p.Routes = []v1alpha1.ReleaseRoute{{
			Name: "preview", Headers: []v1alpha1.HeaderMatch{{Name: PreviewHeader, Value: PreviewValue}}, To: v1alpha1.Canary,
		}}
	}
	if len(p.Steps) == 0 {
		p.Steps = []v1alpha1.ReleaseStep{{Weight: intstr.FromInt32(0), Pods: ptr.To(intstr.FromString("100%")), For: p.For}}
	}
	return p
}

// abTest gives the version clients that stay with it, and then waits for a decision.
func abTest(p v1alpha1.ReleasePlan) v1alpha1.ReleasePlan {
	if p.Then == "" {
		p.Then = v1alpha1.ThenHold
	}
	chosen := slices.ContainsFunc(p.Routes, func(r v1alpha1.ReleaseRoute) bool { return r.To == v1alpha1.Canary })
	if p.Share == nil && chosen {
		p.Share = ptr.To(intstr.FromInt32(0))
	} else if p.Share == nil {
		p.Share = ptr.To(intstr.FromInt32(50))
	}
	if p.Affinity == nil && (p.Share.Type == intstr.String || p.Share.IntVal > 0) {
		p.Affinity = &v1alpha1.Affinity{Cookie: VersionCookie, Give: true}
	}
	if len(p.Steps) == 0 {
		s := v1alpha1.ReleaseStep{Weight: *p.Share, For: p.For}
		if chosen { // nobody knows how many requests the routes are
			s.Pods = ptr.To(intstr.FromString("50%"))
		}
		p.Steps = []v1alpha1.ReleaseStep{s}
	}
	return p
}

// mirror gives the version copies. It is promoted by itself only when they have shown that
// it is good.
func mirror(p v1alpha1.ReleasePlan) v1alpha1.ReleasePlan {
	if p.Then == "" {
		p.Then = v1alpha1.ThenHold
	}
	if p.Share == nil {
		p.Share = ptr.To(intstr.FromInt32(10))
	}
	promotes := p.Then == v1alpha1.ThenPromote
	if p.For == nil && !promotes {
		p.For = &metav1.Duration{Duration: mirrored}
	}
	if len(p.Steps) == 0 {
		p.Steps = []v1alpha1.ReleaseStep{{Weight: intstr.FromInt32(0), Mirror: p.Share, For: p.For, Proven: promotes}}
	}
	return p
}

// checkStrategy says what of a plan does not go with its strategy. The plan is as it was
// written.
func checkStrategy(p v1alpha1.ReleasePlan) error {
	plain := p.Strategy == "" || p.Strategy == v1alpha1.CanaryStrategy
	switch p.Then {
	case "", v1alpha1.ThenPromote, v1alpha1.ThenHold, v1alpha1.ThenUndo:
	default:
		return fmt.Errorf("plan.then is %q: it is promote, hold or undo", p.Then)
	}
	switch {
	case !plain && !slices.Contains([]string{v1alpha1.BlueGreen, v1alpha1.ABTest, v1alpha1.Mirror}, p.Strategy):
		return fmt.Errorf("plan.strategy is %q: it is Canary, BlueGreen, ABTest or Mirror", p.Strategy)
	case plain && p.Share != nil:
		return fmt.Errorf("plan.share is for the strategies ABTest and Mirror: of a canary, give the steps their weights")
	case p.Strategy == v1alpha1.BlueGreen && p.Share != nil:
		return fmt.Errorf("plan.share is for the strategies ABTest and Mirror: BlueGreen moves all requests at once")
	case plain && p.For != nil:
		return fmt.Errorf("plan.for is for the strategies BlueGreen, ABTest and Mirror: of a canary, say how long each step lasts")
	case p.For != nil && p.For.Duration < 0:
		return fmt.Errorf("plan.for is %s: give a time of 0 or more", p.For.Duration)
	case p.Strategy == v1alpha1.ABTest && p.Then == v1alpha1.ThenPromote:
		return fmt.Errorf("plan.then is promote, and an ABTest promotes nothing by itself: leave it out, and decide with bight release promote or undo")
	}
	w, err := Weight(p.Share, "plan.share")
	if err == nil && p.Strategy == v1alpha1.Mirror && p.Share != nil && w == 0 {
		return fmt.Errorf("plan.share is 0, and a Mirror without copies tells nothing: give 1 to 100")
	}
	return err
}

// pods reads how many pods a step asks for.
func pods(v *intstr.IntOrString, at string) (n int32, part release.Weight, err error) {
	switch {
	case v == nil:
		return 0, 0, nil
	case v.Type == intstr.Int:
		return v.IntVal, 0, nil
	case strings.HasSuffix(v.StrVal, "%"):
		part, err = Weight(v, at)
		return 0, part, err
	}
	count, err := strconv.ParseInt(v.StrVal, 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf(`%s is %q: give a number of pods, or a part of them as "50%%"`, at, v.StrVal)
	}
	return int32(count), 0, nil
}
