package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TicketSeconds is how long a Ticket is good for after it was made.
const TicketSeconds = 12 * 60 * 60

// Ticket lets the controller know somebody whose kubeconfig has no token to show,
// such as one with a client certificate: who may make one in a namespace shows the
// key in place of a token, and is to the controller whom the ticket names. Admission
// sees to it that this is who made it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories=bight
// +kubebuilder:printcolumn:name="Owner",type=string,JSONPath=`.spec.owner`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Ticket struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec TicketSpec `json:"spec"`
}

// TicketSpec says who has which key. It can't be changed.
//
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a Ticket can't be changed: delete it and make another"
type TicketSpec struct {
	// Owner is the user who made it, by the name that the API server knows them by.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Owner string `json:"owner"`
	// Groups are those that the API server puts the owner into.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=512
	Groups []string `json:"groups,omitempty"`
	// KeyHash is the SHA-256 of the key, in hexadecimal.
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	KeyHash string `json:"keyHash"`
}

// TicketList is a list of Tickets.
//
// +kubebuilder:object:root=true
type TicketList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Ticket `json:"items"`
}
