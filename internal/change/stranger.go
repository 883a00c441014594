package change

import (
	"cmp"
	"fmt"

	"github.com/bightdev/bight/api/v1alpha1"
)

// MayRun reports whether the tests of a change that a stranger has made may be run,
// apart. Each commit is a change of its own, so what was approved is what is run.
func MayRun(p v1alpha1.Policy, c *v1alpha1.Change) bool {
	switch cmp.Or(p.Strangers, v1alpha1.StrangersApprove) {
	case v1alpha1.StrangersTest:
		return true
	case v1alpha1.StrangersApprove:
		return c.Spec.Approved
	}
	return false
}

// runStepsOf are the steps of a change's runs. Of what a stranger has made the tests
// are built and run, and nothing is deployed.
func runStepsOf(p v1alpha1.Policy, c *v1alpha1.Change) []string {
	if c.Spec.Untrusted {
		return []string{v1alpha1.BuildStep, v1alpha1.TestStep}
	}
	return RunSteps(p)
}

// stranger decides about a change that a stranger has made. What the review refuses is
// not run even if it may be.
func (d *decision) stranger(c *v1alpha1.Change) {
	if MayRun(d.App.Spec.Policy, c) && Done(State(c.Status.Steps, v1alpha1.ReviewStep)) {
		d.alone = append(d.alone, c)
	}
}

// describeStranger says what a stranger's change waits for when it is reviewed; "" while
// its tests are built or run.
func describeStranger(p v1alpha1.Policy, c *v1alpha1.Change) (phase, message string) {
	const push = "whoever may push takes it further by pushing the commit to a branch of the repository"
	switch state, _, _ := lastAlone(c); {
	case state == v1alpha1.RunPassed:
		return v1alpha1.Held, "its tests passed, apart from everything; somebody made it who may not push: " + push
	case MayRun(p, c):
		return "", ""
	case p.Strangers == v1alpha1.StrangersReview:
		return v1alpha1.Held, "somebody made it who may not push, and the App's policy has nothing of it run: " + push
	}
	return v1alpha1.Held, fmt.Sprintf("somebody made it who may not push, so nothing of it is run: look at it, and bight change approve %s has its tests run apart; %s", c.Name, push)
}
