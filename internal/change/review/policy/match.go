package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	admission "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/bightdev/bight/internal/change/review"
)

// set is all the policies that judge a change.
type set struct {
	policies   []*policy
	bindings   []binding
	objects    []map[string]any // what params may refer to
	unreadable []unreadable
}

// binding says how a policy is used, and how far it is to be trusted in that.
type binding struct {
	admission.ValidatingAdmissionPolicyBinding
	trust trust
}

// policy is a ValidatingAdmissionPolicy or a ChangePolicy.
type policy struct {
	name          string
	file          string // in the repository; "" if it is a tenant's
	where         string // as a person would look for it
	fromBase      bool
	trust         trust
	change        bool // a ChangePolicy
	failurePolicy string
	actions       []string // of a ChangePolicy
	match         *admission.MatchResources
	paramKind     *admission.ParamKind

	conditions, variables []expression
	validations           []validation
}

// expression is CEL and where it is written.
type expression struct {
	name  string
	text  string
	line  int
	block bool // its lines are lines of the file
}

type validation struct {
	expression
	message           string
	messageExpression expression
}

func (p *policy) at(line int) string { return fmt.Sprintf("%s:%d", p.where, line) }

// changeSpec is the spec of a ChangePolicy: what a ValidatingAdmissionPolicy has,
// without the parts about requests, and with the actions of a binding.
type changeSpec struct {
	FailurePolicy     string                 `json:"failurePolicy,omitempty"`
	Variables         []admission.Variable   `json:"variables,omitempty"`
	Validations       []admission.Validation `json:"validations"`
	ValidationActions []string               `json:"validationActions,omitempty"`
}

func (s *set) policy(f file, n *yaml.Node, change bool) error {
	p := &policy{file: f.path, where: f.Name, fromBase: f.fromBase, trust: f.trust, change: change, failurePolicy: "Fail"}
	var spec admission.ValidatingAdmissionPolicySpec
	var meta metav1.ObjectMeta
	if change {
		var cp struct {
			metav1.TypeMeta `json:",inline"`
			Metadata        metav1.ObjectMeta `json:"metadata"`
			Spec            changeSpec        `json:"spec"`
		}
		if err := strict(n, &cp); err != nil {
			return err
		}
		meta, p.actions = cp.Metadata, cp.Spec.ValidationActions
		spec.Variables, spec.Validations = cp.Spec.Variables, cp.Spec.Validations
		if cp.Spec.FailurePolicy != "" {
			p.failurePolicy = cp.Spec.FailurePolicy
		}
	} else {
		var vap admission.ValidatingAdmissionPolicy
		if err := strict(n, &vap); err != nil {
			return err
		}
		meta, spec = vap.ObjectMeta, vap.Spec
		p.match, p.paramKind = spec.MatchConstraints, spec.ParamKind
		if spec.FailurePolicy != nil {
			p.failurePolicy = string(*spec.FailurePolicy)
		}
	}
	if p.name = meta.Name; p.name == "" {
		return fmt.Errorf("the policy has no metadata.name")
	}
	if len(spec.Validations) == 0 {
		return fmt.Errorf("policy %s has no validations", p.name)
	}
	p.expressions(n, spec)
	s.policies = append(s.policies, p)
	return nil
}

// expressions takes the expressions of a spec, and from the YAML their lines.
func (p *policy) expressions(n *yaml.Node, spec admission.ValidatingAdmissionPolicySpec) {
	root := child(n, "spec")
	at := func(list string, i int, key string) (int, bool) {
		seq := child(root, list)
		if seq == nil || i >= len(seq.Content) {
			return n.Line, false
		}
		v := child(seq.Content[i], key)
		if v == nil {
			return seq.Content[i].Line, false
		}
		if v.Style == yaml.LiteralStyle {
			return v.Line + 1, true
		}
		return v.Line, false
	}
	for i, c := range spec.MatchConditions {
		line, block := at("matchConditions", i, "expression")
		p.conditions = append(p.conditions, expression{c.Name, c.Expression, line, block})
	}
	for i, v := range spec.Variables {
		line, block := at("variables", i, "expression")
		p.variables = append(p.variables, expression{v.Name, v.Expression, line, block})
	}
	for i, v := range spec.Validations {
		line, block := at("validations", i, "expression")
		x := validation{expression: expression{"", v.Expression, line, block}, message: v.Message}
		line, block = at("validations", i, "messageExpression")
		x.messageExpression = expression{"", v.MessageExpression, line, block}
		p.validations = append(p.validations, x)
	}
}

func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil {
		return nil
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// strict decodes a YAML node as Kubernetes' types are decoded; unknown fields are errors.
func strict(n *yaml.Node, into any) error {
	var v any
	if err := n.Decode(&v); err != nil {
		return err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}

func (s *set) binding(f file, n *yaml.Node) error {
	b := binding{trust: f.trust}
	if err := strict(n, &b.ValidatingAdmissionPolicyBinding); err != nil {
		return err
	}
	if b.Spec.PolicyName == "" {
		return fmt.Errorf("binding %s has no spec.policyName", b.Name)
	}
	s.bindings = append(s.bindings, b)
	return nil
}

// use is a policy as one binding uses it; the zero value is one without a binding,
// which denies.
type use struct {
	binding *binding
}

// uses returns a policy's bindings. One without a binding is for review alone, and
// denies; a binding that is trusted less than its policy does not change that.
func (s *set) uses(p *policy) []use {
	var out []use
	bound := false
	for i, b := range s.bindings {
		if b.Spec.PolicyName == p.name {
			out = append(out, use{&s.bindings[i]})
			bound = bound || b.trust >= p.trust
		}
	}
	if !bound {
		out = append(out, use{})
	}
	return out
}

func (u use) severity() review.Severity {
	if u.binding == nil {
		return review.Error
	}
	var actions []string
	for _, a := range u.binding.Spec.ValidationActions {
		actions = append(actions, string(a))
	}
	return severityOf(actions)
}

func (u use) matches(object map[string]any, operation string) bool {
	return u.binding == nil || u.binding.Spec.MatchResources == nil || matches(u.binding.Spec.MatchResources, object, operation)
}

func (p *policy) matches(object map[string]any, operation string) bool {
	return p.match == nil || matches(p.match, object, operation)
}

// params returns the object that a binding gives to its policy, which must be
// kept beside the policies.
func (s *set) params(p *policy, u use) (map[string]any, error) {
	if p.paramKind == nil || u.binding == nil || u.binding.Spec.ParamRef == nil {
		return nil, nil
	}
	name := u.binding.Spec.ParamRef.Name
	for _, o := range s.objects {
		if o["apiVersion"] == p.paramKind.APIVersion && o["kind"] == p.paramKind.Kind && (review.Object{Value: o}).Name() == name {
			return o, nil
		}
	}
	return nil, fmt.Errorf("its params, %s %s, are not kept beside the policies", p.paramKind.Kind, name)
}

// matches does what admission does, as far as it can be known: the labels of the
// namespace can not, so a selector on them selects.
func matches(m *admission.MatchResources, object map[string]any, operation string) bool {
	if m.ObjectSelector != nil {
		sel, err := metav1.LabelSelectorAsSelector(m.ObjectSelector)
		if err == nil && !sel.Matches(labelsOf(object)) {
			return false
		}
	}
	hit := func(r admission.NamedRuleWithOperations) bool { return ruleMatches(r, object, operation) }
	if slices.ContainsFunc(m.ExcludeResourceRules, hit) {
		return false
	}
	return len(m.ResourceRules) == 0 || slices.ContainsFunc(m.ResourceRules, hit)
}

func ruleMatches(r admission.NamedRuleWithOperations, object map[string]any, operation string) bool {
	gvk := kindOf(object)
	plural, _ := meta.UnsafeGuessKindToResource(gvk)
	has := func(list []string, want string) bool {
		return slices.Contains(list, want) || slices.Contains(list, "*")
	}
	operations := make([]string, len(r.Operations))
	for i, o := range r.Operations {
		operations[i] = string(o)
	}
	resource := slices.ContainsFunc(r.Resources, func(x string) bool {
		return x == "*" || x == "*/*" || strings.EqualFold(x, plural.Resource)
	})
	return has(r.APIGroups, gvk.Group) && has(r.APIVersions, gvk.Version) && has(operations, operation) && resource &&
		(len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, (review.Object{Value: object}).Name()))
}

func labelsOf(object map[string]any) labels.Set {
	md, _ := object["metadata"].(map[string]any)
	raw, _ := md["labels"].(map[string]any)
	out := labels.Set{}
	for k, v := range raw {
		if s, ok := v.(string); ok {
			out[k] = s
		}
	}
	return out
}
