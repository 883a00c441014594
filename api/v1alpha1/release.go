package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Labels and annotations of releases.
const (
	// ServiceLabel is on Releases: the Deployment's name.
	ServiceLabel = "bight.dev/service"
	// ReleasedAnnotation is on a Deployment that a release has changed: what its
	// strategy was before, as JSON, until it is put back. It is on a route of Gateway API,
	// too: what its rules were.
	ReleasedAnnotation = "bight.dev/released"
	// TemplateAnnotation is on a Deployment whose versions are released: the digest of the
	// template that it was deployed with last.
	TemplateAnnotation = "bight.dev/template"
	// PreviewLabel is on Services that lead to the new pods of a Release alone: its name.
	PreviewLabel = "bight.dev/preview"
	// DoorsAnnotation is on pods whose requests may be shared one day: "true". Their doors
	// are open from their start, so that no connection is older than its door.
	DoorsAnnotation = "bight.dev/doors"
	// WithAnnotation is on Releases that are undone because another one of their change came to
	// nothing.
	WithAnnotation = "bight.dev/undone-with"
	// CanaryLabel is on a Service that leads to the version of a release alone: the name of
	// the Service whose requests are shared.
	CanaryLabel = "bight.dev/canary-of"
)

// Release is one version of a service that takes over its traffic in one environment.
// The canary is not a second workload: its pods are those of the Deployment's own next
// ReplicaSet, and those that were judged are those that stay.
//
// The spec says what is wanted, orders that hold at once included; everybody who obeys
// reads it himself. The newest Release of a Deployment is the one that counts.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=bight
// +kubebuilder:printcolumn:name="Deployment",type=string,JSONPath=`.spec.deployment`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.spec.version`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Weight",type=string,JSONPath=`.status.weight`
// +kubebuilder:printcolumn:name="Verdict",type=string,JSONPath=`.status.verdict.is`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Release struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec ReleaseSpec `json:"spec"`
	// +optional
	Status ReleaseStatus `json:"status,omitzero"`
}

// ReleaseSpec says which version, how it takes over, and what people want of it now.
//
// +kubebuilder:validation:XValidation:rule="self.deployment == oldSelf.deployment && self.service == oldSelf.service && self.template == oldSelf.template",message="deployment, service and template can't be changed: make another Release"
// +kubebuilder:validation:XValidation:rule="has(self.traffic) == has(oldSelf.traffic) && (!has(self.traffic) || self.traffic == oldSelf.traffic)",message="who shares the requests can't be changed: make another Release"
type ReleaseSpec struct {
	// Deployment whose pods become those of the version.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Deployment string `json:"deployment"`
	// Service is the Kubernetes Service whose requests are shared.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Service string `json:"service"`
	// Traffic says who shares the requests. By default the doors in the pods of the version
	// before do.
	// +optional
	Traffic ReleaseTraffic `json:"traffic,omitzero"`
	// Template is the version: a pod template.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Type=object
	Template runtime.RawExtension `json:"template"`
	// Version is what people call it.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Version string `json:"version,omitempty"`
	// Change is the one that made it, NAMESPACE/NAME.
	// +optional
	// +kubebuilder:validation:MaxLength=320
	Change string `json:"change,omitempty"`
	// Plan is how it goes if nobody interferes. It may be changed on the way: what is
	// behind stays behind.
	// +optional
	Plan ReleasePlan `json:"plan,omitzero"`
	// Orders hold until they are changed. A ReleasePolicy of the namespace may refuse what is
	// new in them; then those of before hold on. Undo is never refused.
	// +optional
	Orders ReleaseOrders `json:"orders,omitzero"`
	// Ask are orders that somebody wants and may not give: somebody else approves them.
	// +optional
	Ask *ReleaseOrders `json:"ask,omitempty"`
}

// Strategies are words for plans. Each says what the rest of the plan is where that is left
// out: the steps, and whatever else is told of it here.
const (
	// CanaryStrategy gives the version more and more of the requests. It is what "" means.
	CanaryStrategy = "Canary"
	// BlueGreen makes all pods of the version beside those of before, shows them to who
	// looks for a preview, and moves all requests at once, after somebody's word. The pods
	// of before stay for ten minutes, in which the evidence still undoes the version.
	BlueGreen = "BlueGreen"
	// ABTest gives the version a share of the clients, each of which stays with it, and
	// then waits for a decision. It promotes nothing by itself.
	ABTest = "ABTest"
	// Mirror gives the version copies of requests, and no request.
	Mirror = "Mirror"
)

// What happens after a plan's last step.
const (
	ThenPromote = "promote"
	ThenHold    = "hold"
	ThenUndo    = "undo"
)

// ReleaseTraffic says who shares the requests.
type ReleaseTraffic struct {
	// Routes of Gateway API, in the Release's namespace, whose rules lead to the Service:
	// their weights share the requests, whatever implements the gateways.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Routes []TrafficRoute `json:"routes,omitempty"`
}

// Kinds of TrafficRoute.
const (
	HTTPRoute = "HTTPRoute"
	GRPCRoute = "GRPCRoute"
)

// TrafficRoute names a route of Gateway API.
type TrafficRoute struct {
	// +kubebuilder:validation:Enum=HTTPRoute;GRPCRoute
	Kind string `json:"kind"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// ReleasePlan is what happens by itself. Without strategy and steps it is: 5 % until the
// evidence shows that the version is good, then 50 % for half a minute, then everything.
type ReleasePlan struct {
	// Strategy is a word for a plan: Canary, BlueGreen, ABTest or Mirror. Steps that are
	// given take the place of those that it makes.
	// +optional
	// +kubebuilder:validation:Enum=Canary;BlueGreen;ABTest;Mirror
	Strategy string `json:"strategy,omitempty"`
	// Share is how much an ABTest gives to the version (50, or nothing besides the routes if
	// there are any), and how much a Mirror copies (10), in percent.
	// +optional
	// +kubebuilder:validation:XIntOrString
	Share *intstr.IntOrString `json:"share,omitempty"`
	// For is how long the preview of a BlueGreen lasts at least (30s if it goes on by itself),
	// an ABTest, and the copies of a Mirror (5m, or as long as the evidence takes if it is
	// promoted by itself).
	// +optional
	For *metav1.Duration `json:"for,omitempty"`
	// Then is what comes after the last step: promote, undo, or hold until somebody decides.
	// BlueGreen, ABTest and Mirror hold, Canary promotes.
	// +optional
	// +kubebuilder:validation:Enum=promote;hold;undo
	Then string `json:"then,omitempty"`
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	Steps []ReleaseStep `json:"steps,omitempty"`
	// Routes give some requests to one of the versions, whatever the weight. The first
	// that matches counts.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Routes []ReleaseRoute `json:"routes,omitempty"`
	// Affinity keeps a client with its version.
	// +optional
	Affinity *Affinity `json:"affinity,omitempty"`
	// Ready is how long the first pod may take until it is ready: 10m.
	// +optional
	Ready *metav1.Duration `json:"ready,omitempty"`
	// Keep is how long the pods that have no more requests are kept: 30s, and 10m for
	// BlueGreen, which keeps those of an undone version for 30s at most.
	// +optional
	Keep *metav1.Duration `json:"keep,omitempty"`
	// Doubt is what happens without a verdict in time: hold or undo.
	// +optional
	// +kubebuilder:validation:Enum=hold;undo
	Doubt string `json:"doubt,omitempty"`
	// Judge is what the version is judged by.
	// +optional
	Judge ReleaseJudge `json:"judge,omitzero"`
	// Evidence is what is kept of requests.
	// +optional
	Evidence ReleaseEvidence `json:"evidence,omitzero"`
}

// ReleaseEvidence is what is kept of requests that failed or were slow, and of some
// others, to show them and to ask a laptop the same things again when the version is
// undone. What is secret by its name or its looks is never kept.
type ReleaseEvidence struct {
	// Off keeps nothing.
	// +optional
	Off bool `json:"off,omitempty"`
	// NoBodies keeps nothing of what requests and answers are about.
	// +optional
	NoBodies bool `json:"noBodies,omitempty"`
	// NoAgain never asks stable what the version has failed at. Only requests that change
	// nothing (GET, HEAD, OPTIONS) are asked again, at most 32.
	// +optional
	NoAgain bool `json:"noAgain,omitempty"`
	// Headers are kept besides those that nobody is known by.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Headers []string `json:"headers,omitempty"`
	// Hide are fields of JSON and of forms, and parameters, whose values are not kept,
	// besides the usual ones: password, token, email and such.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Hide []string `json:"hide,omitempty"`
}

// ReleaseStep is one stretch of a plan. It is over when all of what it asks for is true.
type ReleaseStep struct {
	// Weight is the share of requests, in percent: 5 or "0.25%".
	// +kubebuilder:validation:XIntOrString
	Weight intstr.IntOrString `json:"weight"`
	// Mirror is the share of the other requests that the version gets a copy of. Its answers
	// are thrown away, and judged beside those to the requests themselves.
	// +optional
	// +kubebuilder:validation:XIntOrString
	Mirror *intstr.IntOrString `json:"mirror,omitempty"`
	// For is how long it lasts at least.
	// +optional
	For *metav1.Duration `json:"for,omitempty"`
	// Hold waits until somebody says that it may go on.
	// +optional
	Hold bool `json:"hold,omitempty"`
	// Proven waits until the evidence shows that the version is good.
	// +optional
	Proven bool `json:"proven,omitempty"`
	// Pods is how many the version has at least: 3, or "100%" of those that the Deployment
	// is to have, which a HorizontalPodAutoscaler may change. The step begins when they are
	// ready.
	// +optional
	// +kubebuilder:validation:XIntOrString
	Pods *intstr.IntOrString `json:"pods,omitempty"`
}

// ReleaseRoute gives requests to a version.
type ReleaseRoute struct {
	// Name is for people.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name,omitempty"`
	// Headers and Cookies must all be there.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Headers []HeaderMatch `json:"headers,omitempty"`
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Cookies []HeaderMatch `json:"cookies,omitempty"`
	// Query are parameters of the query, which must all be there. Of several of one name the
	// first counts.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Query []HeaderMatch `json:"query,omitempty"`
	// Methods are those of the requests, GET say: one of them, in capitals.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=32
	Methods []string `json:"methods,omitempty"`
	// Path is a prefix of whole elements.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Path string `json:"path,omitempty"`
	// Exact makes Path the whole path: nothing below it.
	// +optional
	Exact bool `json:"exact,omitempty"`
	// To is canary or stable.
	// +kubebuilder:validation:Enum=canary;stable
	To string `json:"to"`
}

// Versions that a request may go to.
const (
	Canary = "canary"
	Stable = "stable"
)

// Affinity tells by what a client is known.
type Affinity struct {
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Header string `json:"header,omitempty"`
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Cookie string `json:"cookie,omitempty"`
	// Give gives the cookie to clients that have none.
	// +optional
	Give bool `json:"give,omitempty"`
}

// ReleaseJudge is what a version is judged by.
type ReleaseJudge struct {
	// MaxErrors is the rate of errors, in percent, that must be excluded: 1.
	// +optional
	// +kubebuilder:validation:XIntOrString
	MaxErrors *intstr.IntOrString `json:"maxErrors,omitempty"`
	// Hung is the time without an answer after which a request is an error: 30s.
	// +optional
	Hung *metav1.Duration `json:"hung,omitempty"`
	// Deadline is when there is no good verdict any more: 30m.
	// +optional
	Deadline *metav1.Duration `json:"deadline,omitempty"`
	// WarmUp is for how long a pod that came into service counts for nothing.
	// +optional
	WarmUp *metav1.Duration `json:"warmUp,omitempty"`
	// Latency is on, or off: then nobody minds how long answers take.
	// +optional
	// +kubebuilder:validation:Enum=on;off
	Latency string `json:"latency,omitempty"`
	// MaxSlow is the rate of requests slower than 99 % of stable's, in percent, that must
	// be excluded: 5. With 100 it need not be.
	// +optional
	// +kubebuilder:validation:XIntOrString
	MaxSlow *intstr.IntOrString `json:"maxSlow,omitempty"`
	// Slack is how much longer than stable's an answer may take until it is slow: what
	// a connection to the app costs that has to be made first. 2ms.
	// +optional
	Slack *metav1.Duration `json:"slack,omitempty"`
	// Settle is for how long the latency of a pod that came into service counts for
	// nothing: 10s.
	// +optional
	Settle *metav1.Duration `json:"settle,omitempty"`
	// Kept goes on judging while the pods of before are kept: a version that fails more
	// often than MaxErrors, and than twice as often as stable did before, loses its requests
	// again, and so does one that takes longer than 99 % of stable's for more than half of
	// its answers. Nothing is left to compare it with then, so an outage that is not its own tells
	// against it, too. BlueGreen has it.
	// +optional
	Kept bool `json:"kept,omitempty"`
	// Guards are questions to Prometheus that must be answered well, too.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Guards []ReleaseGuard `json:"guards,omitempty"`
}

// EvidenceAudience is whom the tokens are made for by which node agents are known to the
// controller: to the API server they are nobody's, so who overhears one can do nothing
// there. EvidenceTokens is the directory where an agent has its own, in file token.
const (
	EvidenceAudience = "bight.dev/evidence"
	EvidenceTokens   = "/var/run/secrets/bight.dev"
)

// LatencyOff is what ReleaseJudge.Latency is where nobody minds it.
const LatencyOff = "off"

// ReleaseGuard is a question to the Prometheus that bight install was told of. Every
// value of the answer has to be within Min and Max.
//
// +kubebuilder:validation:XValidation:rule="has(self.min) || has(self.max)",message="a guard has a min or a max"
type ReleaseGuard struct {
	// Name is for people.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Name string `json:"name"`
	// Query is PromQL. Inside of quotes, $SERVICE, $NAMESPACE, $STABLE and $CANARY are the
	// Service, the namespace and the pod-template-hashes of both versions.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Query string `json:"query"`
	// +optional
	Max *float64 `json:"max,omitempty"`
	// +optional
	Min *float64 `json:"min,omitempty"`
	// Every is how often it is asked: 15s.
	// +optional
	Every *metav1.Duration `json:"every,omitempty"`
}

// ReleaseOrders are what people want now. Undo is obeyed by the data plane itself, and
// waits for nobody.
type ReleaseOrders struct {
	// Weight is the version's share, in percent, whatever the plan says.
	// +optional
	// +kubebuilder:validation:XIntOrString
	Weight *intstr.IntOrString `json:"weight,omitempty"`
	// Routes come before those of the plan.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Routes []ReleaseRoute `json:"routes,omitempty"`
	// +optional
	Paused bool `json:"paused,omitempty"`
	// Go ends a hold, or a doubt, each time that it is raised; of a version that is promoted, the
	// time for which the pods of before it are kept.
	// +optional
	Go int64 `json:"go,omitempty"`
	// Promote gives the version everything, without waiting for evidence.
	// +optional
	Promote bool `json:"promote,omitempty"`
	// Undo takes everything from it.
	// +optional
	Undo bool `json:"undo,omitempty"`
	// By is who has given the newest of them, by the name that the API server knows
	// them by; admission refuses any other.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	By string `json:"by,omitempty"`
	// Groups are some of those that By is in, for a ReleasePolicy; admission refuses others.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Groups []string `json:"groups,omitempty"`
	// At is when they were given: the same again is another order.
	// +optional
	At *metav1.MicroTime `json:"at,omitempty"`
	// Asked is who has asked for these orders, if By has only approved them.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Asked string `json:"asked,omitempty"`
	// Over is, of orders that are asked for, which orders held then: a digest of them. Who
	// approves takes back nothing that was ordered since.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Over string `json:"over,omitempty"`
	// Why is what they said.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Why string `json:"why,omitempty"`
}

// ReleaseStatus is what has become of it.
type ReleaseStatus struct {
	// Phase is Starting, Progressing, Held, Promoting, Undoing, Promoted, Undone or
	// Superseded; the last three are ends.
	// +optional
	Phase string `json:"phase,omitempty"`
	// Message is one line, for people.
	// +optional
	Message string `json:"message,omitempty"`
	// Weight is the version's share now: "5 %".
	// +optional
	Weight string `json:"weight,omitempty"`
	// Step is the place in the plan, from 1, and Steps how many there are.
	// +optional
	Step int32 `json:"step,omitempty"`
	// +optional
	Steps int32 `json:"steps,omitempty"`
	// +optional
	Started *metav1.MicroTime `json:"started,omitempty"`
	// +optional
	Ended *metav1.MicroTime `json:"ended,omitempty"`
	// Exposed is when the version was given requests first, Full when it had all of them, and
	// Undoing when it began to lose them again.
	// +optional
	Exposed *metav1.MicroTime `json:"exposed,omitempty"`
	// +optional
	Full *metav1.MicroTime `json:"full,omitempty"`
	// +optional
	Undoing *metav1.MicroTime `json:"undoing,omitempty"`
	// Convicted tells that the evidence was against the version: it does not come back.
	// +optional
	Convicted bool `json:"convicted,omitempty"`
	// Refused are orders that a ReleasePolicy does not allow: those of before hold.
	// +optional
	Refused *ReleaseRefusal `json:"refused,omitempty"`
	// Route is what the doors are to do.
	// +optional
	Route *Routing `json:"route,omitempty"`
	// Stable and Canary are the pods of both versions.
	// +optional
	Stable VersionStatus `json:"stable,omitzero"`
	// +optional
	Canary VersionStatus `json:"canary,omitzero"`
	// +optional
	Verdict *VerdictStatus `json:"verdict,omitempty"`
	// Doors are what the node agents say of stable's pods, each of its own.
	// +optional
	// +listType=map
	// +listMapKey=node
	Doors []NodeDoors `json:"doors,omitempty"`
	// Gateways are what their controllers say of the routes of spec.traffic.
	// +optional
	// +listType=atomic
	Gateways []RouteStatus `json:"gateways,omitempty"`
	// Events are what has happened, the newest last.
	// +optional
	// +listType=atomic
	Events []ReleaseEvent `json:"events,omitempty"`
	// Attempts are the releases of this version before this one, which had its name and ended, the
	// newest last. The controller knows of them by itself.
	// +optional
	// +listType=atomic
	Attempts []ReleaseAttempt `json:"attempts,omitempty"`
	// State is what the controller goes on from.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Type=object
	State *runtime.RawExtension `json:"state,omitempty"`
	// Evidence is what the judge goes on from.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Type=object
	Evidence *runtime.RawExtension `json:"evidence,omitempty"`
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ReleaseRefusal is why orders do not hold.
type ReleaseRefusal struct {
	// Generation is that of the Release, with these orders.
	Generation int64 `json:"generation"`
	// Policy and Rule are what refuses them.
	Policy string `json:"policy"`
	// +optional
	Rule string `json:"rule,omitempty"`
	// Why is one line, for people.
	Why string `json:"why"`
	// Orders are those that hold instead.
	// +optional
	Orders ReleaseOrders `json:"orders,omitzero"`
}

// ReleasePolicy bounds what people may order of the Releases of its namespace. All
// policies of a namespace hold. To undo a release is always allowed.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=bight
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ReleasePolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec ReleasePolicySpec `json:"spec"`
	// +optional
	Status ReleasePolicyStatus `json:"status,omitzero"`
}

// ReleasePolicySpec says what must be true of each order.
type ReleasePolicySpec struct {
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Rules []ReleaseRule `json:"rules"`
}

// ReleaseRule is one thing that must be true of each order.
type ReleaseRule struct {
	// Name is for people.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name"`
	// Expression is CEL, with what Kubernetes adds to it, and is true if the order is
	// allowed. It knows user (name, groups), asked (who has asked the user for it, or ""),
	// order (weight in percent, promote, paused, routes), release (deployment, service,
	// version, change, phase, weight, verdict, requests, errors, annotations) and now.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Expression string `json:"expression"`
	// Message is what who is refused is told.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
}

// ReleasePolicyStatus says whether the rules can be read.
type ReleasePolicyStatus struct {
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ReleasePolicyList is a list of ReleasePolicies.
//
// +kubebuilder:object:root=true
type ReleasePolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ReleasePolicy `json:"items"`
}

// Routing is how requests are shared by the doors of stable's pods.
type Routing struct {
	// Generation grows with each change.
	Generation int64 `json:"generation"`
	// Weight and Mirror are in hundredths of a percent, and Held the largest weight that
	// the version has had.
	Weight int32 `json:"weight"`
	// +optional
	Mirror int32 `json:"mirror,omitempty"`
	// +optional
	Held int32 `json:"held,omitempty"`
	// Shut keeps everything away from the version, routes too.
	// +optional
	Shut bool `json:"shut,omitempty"`
	// Retire has clients leave the doors of stable's pods, which are about to end.
	// +optional
	Retire bool `json:"retire,omitempty"`
	// Alone says that the Service leads to the version's own pods, past all doors, whatever
	// its weight is: stable has none that could answer.
	// +optional
	Alone bool `json:"alone,omitempty"`
	// Selector selects the pods of both versions; Stable and Canary are their
	// pod-template-hash.
	Selector map[string]string `json:"selector"`
	Stable   string            `json:"stable"`
	// +optional
	Canary string `json:"canary,omitempty"`
	// Ports are those that the Service leads to.
	// +listType=atomic
	Ports []RoutingPort `json:"ports"`
	// Addresses are the IPs of the canary's pods that are ready.
	// +optional
	// +listType=atomic
	Addresses []string `json:"addresses,omitempty"`
	// ByRoutes says that routes of Gateway API share the requests, and doors only count
	// them. When the version is shut, the doors of its own pods give what still comes there
	// to those of stable, whose IPs are Before.
	// +optional
	ByRoutes bool `json:"byRoutes,omitempty"`
	// +optional
	// +listType=atomic
	Before []string `json:"before,omitempty"`
	// +optional
	// +listType=atomic
	Routes []ReleaseRoute `json:"routes,omitempty"`
	// +optional
	Affinity *Affinity `json:"affinity,omitempty"`
	// Quantiles are the latencies that half, 90 %, 99 % and 99.9 % of stable's requests
	// stayed below before the version got its first. Without them latency is not judged.
	// +optional
	// +listType=atomic
	Quantiles []metav1.Duration `json:"quantiles,omitempty"`
	// Judges is how many node agents may convict the version by what they see alone.
	Judges int32 `json:"judges"`
}

// RoutingPort is one port of both versions.
type RoutingPort struct {
	// Stable and Canary are the ports of the containers.
	Stable int32 `json:"stable"`
	Canary int32 `json:"canary"`
	// Protocol is http, grpc or tcp, where that is known.
	// +optional
	Protocol string `json:"protocol,omitempty"`
}

// VersionStatus is about the pods of one version.
type VersionStatus struct {
	// Hash is their pod-template-hash.
	// +optional
	Hash string `json:"hash,omitempty"`
	// Image is the first container's.
	// +optional
	Image string `json:"image,omitempty"`
	// +optional
	Want int32 `json:"want,omitempty"`
	// +optional
	Ready int32 `json:"ready,omitempty"`
	// +optional
	Pods int32 `json:"pods,omitempty"`
}

// VerdictStatus is what the evidence supports.
type VerdictStatus struct {
	// Is is collecting, good, bad or inconclusive.
	Is string `json:"is"`
	// Since is when it came to that.
	// +optional
	Since *metav1.MicroTime `json:"since,omitempty"`
	// Why is one line, for people.
	// +optional
	Why string `json:"why,omitempty"`
	// E is the evidence against the version, and AbortAt what convicts it.
	// +optional
	E string `json:"e,omitempty"`
	// +optional
	AbortAt string `json:"abortAt,omitempty"`
	// Requests are those to the version that were judged, copies included, and Errors the
	// failed ones.
	// +optional
	Requests int64 `json:"requests,omitempty"`
	// +optional
	Errors int64 `json:"errors,omitempty"`
	// Latency says what slow is, or why nobody judges that.
	// +optional
	Latency string `json:"latency,omitempty"`
	// Slow are the requests to the version that were slower than 99 % of stable's.
	// +optional
	Slow int64 `json:"slow,omitempty"`
	// Stable and Canary are what became of the requests to both versions, those that were
	// chosen by routes and affinity included.
	// +optional
	Stable *Counted `json:"stable,omitempty"`
	// +optional
	Canary *Counted `json:"canary,omitempty"`
	// Copies are what became of the copies of stable's requests that the version has got.
	// They are among Requests, Errors and Slow.
	// +optional
	Copies *Counted `json:"copies,omitempty"`
	// BadPods are bad where the others are not.
	// +optional
	// +listType=atomic
	BadPods []string `json:"badPods,omitempty"`
}

// Counted is what became of requests.
type Counted struct {
	Requests int64 `json:"requests"`
	// +optional
	Errors int64 `json:"errors,omitempty"`
	// Above and Slow are those of Rated that took longer than half of stable's did before,
	// and than 99 % of them.
	// +optional
	Above int64 `json:"above,omitempty"`
	// +optional
	Slow int64 `json:"slow,omitempty"`
	// Rated are the requests whose latency counts.
	// +optional
	Rated int64 `json:"rated,omitempty"`
}

// NodeDoors is what one node's agent says of stable's pods there.
type NodeDoors struct {
	Node string `json:"node"`
	// Generation of the routing that all Pods obey.
	// +optional
	Generation int64 `json:"generation,omitempty"`
	// Pods are those whose doors obey it.
	// +optional
	// +listType=set
	Pods []string `json:"pods,omitempty"`
	// Problems are why others don't.
	// +optional
	// +listType=map
	// +listMapKey=name
	Problems []DoorProblem `json:"problems,omitempty"`
	// Convicted is why the agent keeps requests from the version by what it has seen
	// alone. All others then do, too.
	// +optional
	Convicted string `json:"convicted,omitempty"`
	// Decided are the requests that were decided about, Carried those that went to the
	// canary, Fallback those of them that stable answered because no canary did, and Lost
	// those that nobody could.
	// +optional
	Decided int64 `json:"decided,omitempty"`
	// +optional
	Carried int64 `json:"carried,omitempty"`
	// +optional
	Fallback int64 `json:"fallback,omitempty"`
	// +optional
	Lost int64 `json:"lost,omitempty"`
	// Underway are those of Carried that have not ended.
	// +optional
	Underway int64 `json:"underway,omitempty"`
	// Copied are the copies that the version has got.
	// +optional
	Copied int64 `json:"copied,omitempty"`
	// Old are connections of before the doors, and Unread those that can't be read; their
	// requests are stable's.
	// +optional
	Old int64 `json:"old,omitempty"`
	// +optional
	Unread int64 `json:"unread,omitempty"`
}

// DoorProblem is why a pod's door does not obey.
type DoorProblem struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// RouteStatus is what is known of a route of Gateway API.
type RouteStatus struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Generation of the routing that the route has, 0 for none.
	// +optional
	Generation int64 `json:"generation,omitempty"`
	// Problem is why it has no newer one.
	// +optional
	Problem string `json:"problem,omitempty"`
	// Parents are the gateways.
	// +optional
	// +listType=atomic
	Parents []RouteParent `json:"parents,omitempty"`
}

// RouteParent is what one controller says of a route at one gateway.
type RouteParent struct {
	// Gateway is the parent, NAME or NAMESPACE/NAME, with a listener or port after a slash or colon.
	Gateway string `json:"gateway"`
	// +optional
	Controller string `json:"controller,omitempty"`
	// Obeys tells that the controller has accepted the route as it is now.
	// +optional
	Obeys bool `json:"obeys,omitempty"`
	// Why it does not.
	// +optional
	Why string `json:"why,omitempty"`
}

// ReleaseAttempt is how a release of the same version went before.
type ReleaseAttempt struct {
	// Number counts from 1.
	Number int32 `json:"number"`
	// UID was that of its Release.
	UID types.UID `json:"uid"`
	// Phase and Message are how it ended, and Convicted that the evidence was against it.
	Phase string `json:"phase"`
	// +optional
	Message string `json:"message,omitempty"`
	// +optional
	Convicted bool `json:"convicted,omitempty"`
	// Verdict is what the evidence supported, and Why one line about that.
	// +optional
	Verdict string `json:"verdict,omitempty"`
	// +optional
	Why string `json:"why,omitempty"`
	// By is who has given the last order, or the change that made it.
	// +optional
	By string `json:"by,omitempty"`
	// +optional
	Began *metav1.MicroTime `json:"began,omitempty"`
	// +optional
	Ended *metav1.MicroTime `json:"ended,omitempty"`
}

// ReleaseEvent is something that has happened.
type ReleaseEvent struct {
	Time metav1.MicroTime `json:"time"`
	Text string           `json:"text"`
}

// ReleaseList is a list of Releases.
//
// +kubebuilder:object:root=true
type ReleaseList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Release `json:"items"`
}
