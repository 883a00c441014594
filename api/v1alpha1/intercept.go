package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RenewedAnnotation is on an Intercept when its owner was last heard of, in RFC 3339
// with fractions of seconds. Nobody compares it with a clock: node agents delete an
// Intercept whose annotation has not changed for as long as [InterceptLease].
const RenewedAnnotation = "bight.dev/renewed"

// InterceptLease is how long, in seconds, an Intercept outlives its owner's last word.
const InterceptLease = 10

// Intercept lets one session of one user into the pods of a workload: to have
// requests for it on their machine, and to see what its process was given. While it
// exists, the node agents open a gate in those pods, which port-forwards reach. It is
// made and renewed by `bight run`, `intercept` and `env`, and ends with them.
//
// Whoever may create Intercepts in a namespace can read the environment, files and
// requests of all its pods: it is worth as much as the right to create pods/exec.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=bight
// +kubebuilder:printcolumn:name="Workload",type=string,JSONPath=`.spec.workload`
// +kubebuilder:printcolumn:name="Owner",type=string,JSONPath=`.spec.owner`
// +kubebuilder:printcolumn:name="From",type=string,JSONPath=`.spec.from`
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.rule.mode`
// +kubebuilder:printcolumn:name="Port",type=integer,JSONPath=`.spec.rule.port`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Intercept struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec InterceptSpec `json:"spec"`
	// +optional
	Status InterceptStatus `json:"status,omitzero"`
}

// InterceptSpec says who is let into which pods, and what for. It can't be changed.
//
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="an Intercept can't be changed: delete it and make another"
type InterceptSpec struct {
	// Owner is the user who made it, by the name that the API server knows them by;
	// admission refuses any other.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Owner string `json:"owner"`
	// From is the owner's machine, for people: "ada@laptop".
	// +optional
	// +kubebuilder:validation:MaxLength=256
	From string `json:"from,omitempty"`
	// Workload is what was asked for, for people: "deployment/cart".
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Workload string `json:"workload,omitempty"`
	// Selector selects pods of the namespace by their labels; all must be there.
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=64
	Selector map[string]string `json:"selector"`
	// Container is the one whose process it is about. Without it, that is a pod's
	// first.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Container string `json:"container,omitempty"`
	// Rule is what of the requests goes to the owner. Without it, none does.
	// +optional
	Rule *Rule `json:"rule,omitempty"`
	// Pod lets the owner read the environment and the mounted files of the process,
	// and connect from the pod.
	// +optional
	Pod bool `json:"pod,omitempty"`
	// TokenHash is the SHA-256 of the session's token, in hexadecimal. Who has the
	// token has what the Intercept allows.
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	TokenHash string `json:"tokenHash"`
}

// Rule says which requests are steered.
type Rule struct {
	// Port is the container's.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
	// Protocol is what is spoken there. Without it, it is found out from what
	// clients say.
	// +optional
	// +kubebuilder:validation:Enum=http;grpc;tcp
	Protocol string `json:"protocol,omitempty"`
	// Mode is intercept, when the owner's machine answers, or mirror, when it gets
	// copies and its answers are dropped.
	// +kubebuilder:validation:Enum=intercept;mirror
	Mode string `json:"mode"`
	// Headers must all be there.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Headers []HeaderMatch `json:"headers,omitempty"`
	// Path is a prefix of whole elements.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Path string `json:"path,omitempty"`
	// Strict makes requests fail that the owner's machine can't answer, instead of
	// giving them to the app.
	// +optional
	Strict bool `json:"strict,omitempty"`
}

// HeaderMatch is true of requests with this header.
type HeaderMatch struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Name string `json:"name"`
	// +kubebuilder:validation:MaxLength=4096
	Value string `json:"value"`
	// Prefix lets the value go on.
	// +optional
	Prefix bool `json:"prefix,omitempty"`
}

// InterceptStatus is what the node agents have done.
type InterceptStatus struct {
	// Nodes are those with pods of the workload, each written by its own agent.
	// +optional
	// +listType=map
	// +listMapKey=node
	Nodes []NodeStatus `json:"nodes,omitempty"`
}

// NodeStatus is what one node's agent has done.
type NodeStatus struct {
	Node string `json:"node"`
	// +optional
	// +listType=map
	// +listMapKey=name
	Pods []PodStatus `json:"pods,omitempty"`
}

// PodStatus tells of one pod.
type PodStatus struct {
	Name string `json:"name"`
	// Port is where the gate listens on the pod's loopback, 0 as long as it does not.
	// +optional
	Port int32 `json:"port,omitempty"`
	// Problem is why there is no gate.
	// +optional
	Problem string `json:"problem,omitempty"`
	// State is that of the rule in this pod: active, or suspended while nothing is
	// heard of the owner's machine. It is empty as long as that has not joined.
	// +optional
	State string `json:"state,omitempty"`
	// Direct says that the owner's machine is reached at the pod's own address, not by
	// a port-forward.
	// +optional
	Direct bool `json:"direct,omitempty"`
	// Requests is how many requests and other connections the owner's machine has
	// answered, or got copies of. It is some seconds old.
	// +optional
	Requests int64 `json:"requests,omitempty"`
	// EarlierRequests is how many there were, by the account of the owner's machine, in
	// pods that have gone since. Each pod has the same number.
	// +optional
	EarlierRequests int64 `json:"earlierRequests,omitempty"`
	// OldConnections is how many connections to the app are left from before the
	// rule, whose requests it does not see. It is some seconds old.
	// +optional
	OldConnections int64 `json:"oldConnections,omitempty"`
}

// InterceptList is a list of Intercepts.
//
// +kubebuilder:object:root=true
type InterceptList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Intercept `json:"items"`
}

// Who is the owner as others see them: "ada (ada@laptop)".
func (i *Intercept) Who() string {
	if i.Spec.From == "" {
		return i.Spec.Owner
	}
	return i.Spec.Owner + " (" + i.Spec.From + ")"
}
