// Package expr makes environments for expressions in CEL as Kubernetes has it: with its
// libraries, and with limits on what an expression may cost.
package expr

import (
	"github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/cel/environment"
)

// The Kubernetes version whose libraries are available.
const kubeMajor, kubeMinor = 1, 36

// Env is an environment with variables of any type, and those of options.
func Env(names []string, options ...cel.EnvOption) (*cel.Env, error) {
	for _, n := range names {
		options = append(options, cel.Variable(n, cel.DynType))
	}
	v := version.MajorMinor(kubeMajor, kubeMinor)
	set, err := environment.MustBaseEnvSet(v).Extend(
		environment.VersionedOptions{IntroducedVersion: version.MajorMinor(1, 0), EnvOptions: options}, environment.StrictCostOpt)
	if err != nil {
		return nil, err
	}
	return set.NewExpressionsEnv(), nil
}
