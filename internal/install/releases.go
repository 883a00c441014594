package install

import (
	"context"
	"fmt"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	admissionac "k8s.io/client-go/applyconfigurations/admissionregistration/v1"

	"github.com/bightdev/bight/api/v1alpha1"
)

// ordersPolicy has whoever orders something of a Release say who they are: what the
// Release tells of its orders is true then.
const ordersPolicy = "bight-release-orders"

func (r *renderer) ordersPolicy() {
	const (
		had = "has(oldObject.spec.orders)"
		has = "has(object.spec.orders)"
		// The controller's own come from an App, and its plan from there.
		own  = "request.userInfo.username == 'system:serviceaccount:" + Namespace + ":" + Controller + "'"
		plan = "(has(object.spec.plan) ? object.spec.plan : {}) == (has(oldObject.spec.plan) ? oldObject.spec.plan : {})"
		same = "(request.operation == 'UPDATE' && " + had + " == " + has + " && (!" + has + " || object.spec.orders == oldObject.spec.orders) && (" + own + " || " + plan + "))"
		none = "(request.operation == 'CREATE' && !" + has + " && " + own + ")"
		mine = "(" + has + " && has(object.spec.orders.by) && object.spec.orders.by == request.userInfo.username)"
		user = "(has(request.userInfo.groups) ? request.userInfo.groups : [])"
		in   = "(!has(object.spec.orders.groups) || object.spec.orders.groups.all(g, g in " + user + "))"
		// Who approves says whose wish it is, and truly. To undo is never refused for that.
		asks = "(!has(object.spec.orders.asked) || has(object.spec.orders.undo) && object.spec.orders.undo || request.operation == 'UPDATE' && has(oldObject.spec.ask) && object.spec.orders.asked == oldObject.spec.ask.by" +
			" && ['weight', 'promote', 'undo', 'paused', 'routes', 'go'].all(f, (f in object.spec.orders) == (f in oldObject.spec.ask)" +
			" && (!(f in object.spec.orders) || object.spec.orders[f] == oldObject.spec.ask[f])))"
		asked = "(!has(object.spec.ask) || request.operation == 'UPDATE' && has(oldObject.spec.ask) && object.spec.ask == oldObject.spec.ask" +
			" || has(object.spec.ask.by) && object.spec.ask.by == request.userInfo.username)"
	)
	r.add(admissionac.ValidatingAdmissionPolicy(ordersPolicy).WithSpec(admissionac.ValidatingAdmissionPolicySpec().
		WithFailurePolicy(admissionv1.Fail).
		WithMatchConstraints(admissionac.MatchResources().WithResourceRules(admissionac.NamedRuleWithOperations().
			WithAPIGroups(v1alpha1.Group).WithAPIVersions("*").WithResources("releases").
			WithOperations(admissionv1.Create, admissionv1.Update))).
		WithValidations(admissionac.Validation().
			WithExpression("(" + same + " || " + none + " || " + mine + " && " + in + " && " + asks + ") && " + asked).
			WithMessageExpression("'who orders something of a Release, begins it, changes its plan or asks for something says so: set spec.orders.by (spec.ask.by) to ' + request.userInfo.username + ', groups to some of theirs, and asked to nobody but who has asked'").
			WithReason(metav1.StatusReasonForbidden))))
	r.add(admissionac.ValidatingAdmissionPolicyBinding(ordersPolicy).WithSpec(admissionac.ValidatingAdmissionPolicyBindingSpec().
		WithPolicyName(ordersPolicy).WithValidationActions(admissionv1.Deny)))
}

// doorsPolicy has node agents write what they say of doors, and nothing else: who has one
// node must not lead the requests of the others astray.
const doorsPolicy = "bight-release-doors"

func (r *renderer) doorsPolicy() {
	same := []string{"has(oldObject.status)", "has(object.status)"}
	for _, field := range []string{
		"phase", "message", "weight", "step", "steps", "started", "ended", "exposed", "full", "undoing", "convicted", "refused", "route", "stable", "canary", "verdict", "gateways", "events", "attempts", "state", "evidence", "conditions",
	} {
		was, is := "oldObject.status."+field, "object.status."+field
		same = append(same, "has("+was+") == has("+is+") && (!has("+is+") || "+was+" == "+is+")")
	}
	user := "system:serviceaccount:" + Namespace + ":" + NodeAgents
	r.add(admissionac.ValidatingAdmissionPolicy(doorsPolicy).WithSpec(admissionac.ValidatingAdmissionPolicySpec().
		WithFailurePolicy(admissionv1.Fail).
		WithMatchConstraints(admissionac.MatchResources().WithResourceRules(admissionac.NamedRuleWithOperations().
			WithAPIGroups(v1alpha1.Group).WithAPIVersions("*").WithResources("releases/status").
			WithOperations(admissionv1.Create, admissionv1.Update))).
		WithMatchConditions(admissionac.MatchCondition().WithName("a-node-agent").WithExpression("request.userInfo.username == '" + user + "'")).
		WithValidations(admissionac.Validation().
			WithExpression(strings.Join(same, " && ")).
			WithMessage("a node agent says what its doors do, in status.doors, and nothing else").
			WithReason(metav1.StatusReasonForbidden))))
	r.add(admissionac.ValidatingAdmissionPolicyBinding(doorsPolicy).WithSpec(admissionac.ValidatingAdmissionPolicyBindingSpec().
		WithPolicyName(doorsPolicy).WithValidationActions(admissionv1.Deny)))
}

// guardsPolicy refuses guards where there is nobody to ask: they would never pass.
const guardsPolicy = "bight-release-guards"

func (r *renderer) guardsPolicy() {
	has := func(object string) string {
		return "(has(" + object + ".spec.plan) && has(" + object + ".spec.plan.judge) && has(" + object + ".spec.plan.judge.guards) && size(" + object + ".spec.plan.judge.guards) > 0)"
	}
	// A Release that has guards already may still be changed, and ended.
	r.add(admissionac.ValidatingAdmissionPolicy(guardsPolicy).WithSpec(admissionac.ValidatingAdmissionPolicySpec().
		WithFailurePolicy(admissionv1.Fail).
		WithMatchConstraints(admissionac.MatchResources().WithResourceRules(admissionac.NamedRuleWithOperations().
			WithAPIGroups(v1alpha1.Group).WithAPIVersions("*").WithResources("releases").
			WithOperations(admissionv1.Create, admissionv1.Update))).
		WithValidations(admissionac.Validation().
			WithExpression("!" + has("object") + " || (request.operation == 'UPDATE' && " + has("oldObject") + ")").
			WithMessage("the plan has guards, and there is no Prometheus to ask: whoever runs the cluster names one with bight install --prometheus URL; otherwise leave out plan.judge.guards").
			WithReason(metav1.StatusReasonInvalid))))
	r.add(admissionac.ValidatingAdmissionPolicyBinding(guardsPolicy).WithSpec(admissionac.ValidatingAdmissionPolicyBindingSpec().
		WithPolicyName(guardsPolicy).WithValidationActions(admissionv1.Deny)))
}

// routesPolicy has whoever names routes of Gateway API in a Release be one who may change
// them: the controller does, for them.
const routesPolicy = "bight-release-routes"

func (r *renderer) routesPolicy() {
	r.add(admissionac.ValidatingAdmissionPolicy(routesPolicy).WithSpec(admissionac.ValidatingAdmissionPolicySpec().
		WithFailurePolicy(admissionv1.Fail).
		WithMatchConstraints(admissionac.MatchResources().WithResourceRules(admissionac.NamedRuleWithOperations().
			WithAPIGroups(v1alpha1.Group).WithAPIVersions("*").WithResources("releases").
			WithOperations(admissionv1.Create))).
		WithMatchConditions(admissionac.MatchCondition().WithName("has-routes").
			WithExpression("has(object.spec.traffic) && has(object.spec.traffic.routes)")).
		WithValidations(admissionac.Validation().
			WithExpression("object.spec.traffic.routes.all(r, authorizer.group('gateway.networking.k8s.io').resource(r.kind == 'GRPCRoute' ? 'grpcroutes' : 'httproutes')" +
				".namespace(request.namespace).name(r.name).check('patch').allowed())").
			WithMessageExpression("'who has routes share the requests of a release may change them: ' + request.userInfo.username + ' may not patch all of ' + object.spec.traffic.routes.map(r, r.kind + ' ' + r.name).join(', ')").
			WithReason(metav1.StatusReasonForbidden))))
	r.add(admissionac.ValidatingAdmissionPolicyBinding(routesPolicy).WithSpec(admissionac.ValidatingAdmissionPolicyBindingSpec().
		WithPolicyName(routesPolicy).WithValidationActions(admissionv1.Deny)))
}

// underWay says which releases are: without the controller, nobody would put back what
// they have changed.
func (i *Installer) underWay(ctx context.Context) error {
	client, err := i.Cluster.Dynamic()
	if err != nil {
		return err
	}
	all, err := client.Resource(v1alpha1.Releases()).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return nil // there is no such kind; or it will be seen that something can't be removed
	}
	if err != nil {
		return fmt.Errorf("look for releases that are under way: %w", i.Cluster.Explain(err))
	}
	var names []string
	for _, r := range all.Items {
		if len(r.GetFinalizers()) > 0 {
			names = append(names, r.GetNamespace()+"/"+r.GetName())
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("%s: under way, and has changed a Deployment and a Service, which only the controller puts back: end it first with bight release promote or undo, "+
		"and wait until bight release status says that it is over. If the controller can't any more, take off its finalizer (kubectl edit release) and look after the Deployment yourself",
		strings.Join(names, ", "))
}
