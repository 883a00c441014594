package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// App is an application on its way to users: where its source is, and which
// environments its changes go through, in order. What the application consists of is
// not here: it is read from the source of each change.
//
// Whoever may create or change an App in a namespace decides what runs in the
// environments that it names. With an App go the repository that the controller
// serves for it, its Changes and its previews; its environments stay.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=bight
// +kubebuilder:printcolumn:name="Branch",type=string,JSONPath=`.spec.branch`
// +kubebuilder:printcolumn:name="Head",type=string,JSONPath=`.status.head`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Why",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type App struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec AppSpec `json:"spec"`
	// +optional
	Status AppStatus `json:"status,omitzero"`
}

// AppSpec is what the owners of an app decide.
type AppSpec struct {
	// Source is where the app's repository is. Without it, the controller serves one.
	// +optional
	Source *Source `json:"source,omitempty"`
	// Branch is the one that changes are merged into.
	// +optional
	// +kubebuilder:default=main
	// +kubebuilder:validation:MaxLength=200
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_][A-Za-z0-9_./-]*$`
	Branch string `json:"branch,omitempty"`
	// Directory is where in the repository the app is: a clean relative path.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('/') && !self.split('/').exists(e, e == '..')",message="a relative path without .."
	Directory string `json:"directory,omitempty"`
	// Environments are where a merged change is deployed, one after the other.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=name
	Environments []Environment `json:"environments"`
	// +optional
	// +kubebuilder:default={}
	Policy Policy `json:"policy,omitzero"`
}

// Source is a repository on an outside host.
type Source struct {
	// URL is what git fetches from and pushes to, by https or http.
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^https?://[^\s]+$`
	URL string `json:"url"`
	// Host is what is spoken there besides git. With none, commits have no statuses
	// and requests no comments.
	// +optional
	// +kubebuilder:validation:Enum=none;github;gitlab;gitea
	// +kubebuilder:default=none
	Host string `json:"host,omitempty"`
	// Secret, of this namespace, has the keys username and password (or token) for
	// git and the host, and webhook, with which the host signs what it reports.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Secret string `json:"secret,omitempty"`
	// PollSeconds is how often the repository is looked at where no webhook tells of
	// a push. 0 is never.
	// +optional
	// +kubebuilder:default=60
	// +kubebuilder:validation:Minimum=0
	PollSeconds int32 `json:"pollSeconds,omitempty"`
}

// Environment is one namespace that a change is deployed to.
type Environment struct {
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Namespace is "<app>-<name>" by default, which is made when it is not there. One
	// that exists is used only if its labels bight.dev/app and bight.dev/app-namespace
	// name this App.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
	// Promotion says whether a change goes on to this environment by itself.
	// +optional
	// +kubebuilder:validation:Enum=Automatic;Manual
	// +kubebuilder:default=Automatic
	Promotion string `json:"promotion,omitempty"`
	// Release has new versions of services take over their requests step by step, each by
	// a Release with this plan. A plan without steps is made of the change's risk. Without
	// it, a new version is rolled out in the Deployment's own way.
	// +optional
	Release *ReleasePlan `json:"release,omitempty"`
}

// Ways of promotion.
const (
	Automatic = "Automatic"
	Manual    = "Manual"
)

// Policy is what a change must fulfil, and how it is treated.
type Policy struct {
	// Merge says what a merged change looks like in the branch's history.
	// +optional
	// +kubebuilder:validation:Enum=Rebase;Squash;Merge
	// +kubebuilder:default=Rebase
	Merge string `json:"merge,omitempty"`
	// RefuseAt is the least severity of a finding that refuses a change.
	// +optional
	// +kubebuilder:validation:Enum=Error;Warning;Never
	// +kubebuilder:default=Error
	RefuseAt string `json:"refuseAt,omitempty"`
	// Preview runs each change in an environment of its own before it is merged.
	// +optional
	// +kubebuilder:default=true
	Preview *bool `json:"preview,omitempty"`
	// PreviewMinutes is how long a preview stays after its last change.
	// +optional
	// +kubebuilder:default=60
	// +kubebuilder:validation:Minimum=1
	PreviewMinutes int32 `json:"previewMinutes,omitempty"`
	// Flakes says what a test means that both passed and failed with the same
	// inputs: Fail, or Quarantine, which lists it and goes on once it is almost
	// certain that the test is at fault.
	// +optional
	// +kubebuilder:validation:Enum=Fail;Quarantine
	// +kubebuilder:default=Fail
	Flakes string `json:"flakes,omitempty"`
	// StepMinutes is the longest that one step may take.
	// +optional
	// +kubebuilder:default=15
	// +kubebuilder:validation:Minimum=1
	StepMinutes int32 `json:"stepMinutes,omitempty"`
	// Speculation is how many combinations of waiting changes are tested at once.
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=64
	Speculation int32 `json:"speculation,omitempty"`
	// Tests are what the tests of one change may use.
	// +optional
	// +kubebuilder:default={}
	Tests TestLimits `json:"tests,omitzero"`
	// Strangers says what is done with a change by somebody who may not push, such as a
	// request from a fork: it is reviewed, and no more (Review); its tests are run apart
	// once somebody who may push has approved it (Approve); or without being asked (Test).
	// +optional
	// +kubebuilder:validation:Enum=Review;Approve;Test
	// +kubebuilder:default=Approve
	Strangers string `json:"strangers,omitempty"`
	// Verify has each image looked at before it is deployed, in a preview too: what was
	// not built and signed by those who are named here is refused.
	// +optional
	Verify *Verification `json:"verify,omitempty"`
}

// What is done with changes by those who may not push.
const (
	StrangersReview  = "Review"
	StrangersApprove = "Approve"
	StrangersTest    = "Test"
)

// TestLimits are what tests may use.
type TestLimits struct {
	// Seconds is the longest that the tests of one Go package, or a service's own
	// command, may take.
	// +optional
	// +kubebuilder:default=600
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	Seconds int32 `json:"seconds,omitempty"`
	// Processes is how many processes and threads there may be at once.
	// +optional
	// +kubebuilder:default=2048
	// +kubebuilder:validation:Minimum=32
	// +kubebuilder:validation:Maximum=1000000
	Processes int32 `json:"processes,omitempty"`
	// Memory is what all processes may hold together, as in 2Gi. Without it, that is
	// what the worker has, and 2Gi for the tests of strangers.
	// +optional
	// +kubebuilder:validation:MaxLength=20
	// +kubebuilder:validation:XValidation:rule="isQuantity(self) && quantity(self).compareTo(quantity('64Mi')) >= 0",message="a quantity of at least 64Mi, as in 2Gi"
	Memory string `json:"memory,omitempty"`
	// Disk is how much tests may write, as in 2Gi. Without it, that is 8Gi, and 2Gi for
	// the tests of strangers.
	// +optional
	// +kubebuilder:validation:MaxLength=20
	// +kubebuilder:validation:XValidation:rule="isQuantity(self) && quantity(self).compareTo(quantity('16Mi')) >= 0",message="a quantity of at least 16Mi, as in 2Gi"
	Disk string `json:"disk,omitempty"`
}

// Verification says whose images are deployed.
type Verification struct {
	// Keys are public keys in PEM, ECDSA P-256. An image's digest, its SBOM and its
	// provenance must each be signed with one of theirs; workers do so that are
	// started with --signing-key.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=4096
	// +listType=atomic
	Keys []string `json:"keys"`
	// Builders are the builder ids that provenance may name.
	// +optional
	// +kubebuilder:default={"https://bight.dev/worker/v1"}
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=1024
	// +listType=atomic
	Builders []string `json:"builders,omitempty"`
}

// WorkerBuilder is the builder id of what workers build.
const WorkerBuilder = "https://bight.dev/worker/v1"

// AppStatus is what the controller has done.
type AppStatus struct {
	// Head is the branch's newest commit.
	// +optional
	Head string `json:"head,omitempty"`
	// Environments are in the order of the spec.
	// +optional
	// +listType=map
	// +listMapKey=name
	Environments []EnvironmentStatus `json:"environments,omitempty"`
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

// EnvironmentStatus is what runs in one environment.
type EnvironmentStatus struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	// Change is the last one that was deployed there, and Commit the commit of the
	// environment's branch that says so.
	// +optional
	Change string `json:"change,omitempty"`
	// +optional
	Commit string `json:"commit,omitempty"`
	// Healed is how often something was put back that somebody else had changed, and
	// Drift what it was the last time.
	// +optional
	Healed int64 `json:"healed,omitempty"`
	// +optional
	Drift string `json:"drift,omitempty"`
	// Message is why the environment is not as it should be.
	// +optional
	Message string `json:"message,omitempty"`
}

// AppList is a list of Apps.
//
// +kubebuilder:object:root=true
type AppList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []App `json:"items"`
}
