package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Labels.
const (
	// AppLabel is on Changes and on the namespaces of environments: the App's name.
	AppLabel = "bight.dev/app"
	// AppNamespaceLabel is on the namespaces of environments: the App's.
	AppNamespaceLabel = "bight.dev/app-namespace"
	// EnvironmentLabel is on them, too: the environment's name, "preview" for a
	// preview.
	EnvironmentLabel = "bight.dev/environment"
	// PreviewsLabel is on Secrets beside an App of which previews get a copy: "true".
	PreviewsLabel = "bight.dev/previews"
	// LeaderLabel is on the pod of the controller that acts.
	LeaderLabel = "bight.dev/leader"
)

// VerbWork is the right, on Apps, to be a worker for them; who may update an App has it,
// too.
const VerbWork = "work"

// ReasonAnnotation of a Change says why it is cancelled.
const ReasonAnnotation = "bight.dev/reason"

// Change is one commit on its way to users. Its status is the timeline: what was
// done with it, when, with which result, and where the evidence is. Changes are made
// by the controller alone, from what was pushed.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=bight
// +kubebuilder:printcolumn:name="App",type=string,JSONPath=`.spec.app`
// +kubebuilder:printcolumn:name="Commit",type=string,JSONPath=`.spec.commit`,priority=1
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Step",type=string,JSONPath=`.status.current`
// +kubebuilder:printcolumn:name="Risk",type=integer,JSONPath=`.status.risk`
// +kubebuilder:printcolumn:name="By",type=string,JSONPath=`.spec.author`
// +kubebuilder:printcolumn:name="Title",type=string,JSONPath=`.spec.title`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Change struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec ChangeSpec `json:"spec"`
	// +optional
	Status ChangeStatus `json:"status,omitzero"`
}

// ChangeSpec says which commit, and what people want of it.
//
// +kubebuilder:validation:XValidation:rule="self.app == oldSelf.app && self.commit == oldSelf.commit && self.untrusted == oldSelf.untrusted && self.author == oldSelf.author && has(self.committed) == has(oldSelf.committed) && (!has(self.committed) || self.committed == oldSelf.committed)",message="app, commit, author, committed and untrusted can't be changed: push another commit"
type ChangeSpec struct {
	// App is the App's name, in the same namespace.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	App string `json:"app"`
	// Commit is what was pushed.
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{40}([0-9a-f]{24})?$`
	Commit string `json:"commit"`
	// Ref is what it was pushed to: "refs/heads/fix".
	// +kubebuilder:validation:MaxLength=512
	Ref string `json:"ref"`
	// Author is who pushed it, by the name that the cluster or the host knows them by.
	// +kubebuilder:validation:MaxLength=512
	Author string `json:"author"`
	// Title is the first line of the commit's message.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Title string `json:"title,omitempty"`
	// Committed is when the commit was made, by its committer's clock.
	// +optional
	Committed *metav1.Time `json:"committed,omitempty"`
	// Untrusted tells that the author may not push to the app's repository: a request
	// from a fork. Its steps run apart, and nothing that they leave is used by others.
	// +kubebuilder:default=false
	Untrusted bool `json:"untrusted"`
	// Request is the number of the pull or merge request on the outside host.
	// +optional
	Request int64 `json:"request,omitempty"`
	// Order is the place in the app's queue: when it came, in nanoseconds since 1970.
	// +optional
	Order int64 `json:"order,omitempty"`

	// ReplacedBy is the newer change that made this one pointless.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	ReplacedBy string `json:"replacedBy,omitempty"`
	// Merge tells that the change is wanted in the app's branch: it was pushed there, or
	// somebody says so. Without it, it is reviewed, built, tested and previewed.
	// +optional
	Merge bool `json:"merge,omitempty"`
	// Cancel ends the change.
	// +optional
	Cancel bool `json:"cancel,omitempty"`
	// Approved tells that somebody who may push has looked at an untrusted commit and
	// lets its tests be run, apart.
	// +optional
	Approved bool `json:"approved,omitempty"`
	// Attempt is raised to do again what has failed.
	// +optional
	Attempt int32 `json:"attempt,omitempty"`
	// Promote lists the environments that somebody has let the change into, where
	// that is not automatic.
	// +optional
	// +listType=set
	Promote []string `json:"promote,omitempty"`
}

// Phases of a Change.
const (
	Pending    = "Pending"
	Running    = "Running"
	Held       = "Held"       // waits for a person
	Deployed   = "Deployed"   // in all environments
	Refused    = "Refused"    // by the findings, the build or the tests
	Failed     = "Failed"     // by what is not the change's fault
	Cancelled  = "Cancelled"  // by somebody
	Superseded = "Superseded" // by a newer one of the same branch
)

// ChangeStatus is the timeline.
type ChangeStatus struct {
	// +optional
	Phase string `json:"phase,omitempty"`
	// Current is the step that the change is at, for people.
	// +optional
	Current string `json:"current,omitempty"`
	// Message says in a sentence why the change is where it is.
	// +optional
	Message string `json:"message,omitempty"`
	// Attempt is the one of the spec that the steps are of.
	// +optional
	Attempt int32 `json:"attempt,omitempty"`
	// Steps are the timeline. Those of a run are of the one that says most about the
	// change.
	// +optional
	Steps []Step `json:"steps,omitempty"`
	// Runs are the tests of combinations of which this change is the last.
	// +optional
	Runs []Run `json:"runs,omitempty"`
	// Risk is between 0 and 100; its reasons are in the report of the review.
	// +optional
	Risk *int32 `json:"risk,omitempty"`
	// Merged is the commit of the branch that has the change.
	// +optional
	Merged string `json:"merged,omitempty"`
	// MergedAt is when, and MergedOnto the tree that the branch had before.
	// +optional
	MergedAt *metav1.MicroTime `json:"mergedAt,omitempty"`
	// +optional
	MergedOnto string `json:"mergedOnto,omitempty"`
	// MergedBy is the change whose run the merge rests on: itself, or one that was
	// tested together with it.
	// +optional
	MergedBy string `json:"mergedBy,omitempty"`
	// Images are what was built, by service, with digests.
	// +optional
	Images map[string]string `json:"images,omitempty"`
	// Preview is where the change runs before it is merged.
	// +optional
	Preview *Preview `json:"preview,omitempty"`
	// Conditions: Succeeded is True when the change is deployed everywhere, and False
	// when it never will be. Its reason is the phase, or more than that: Unmergeable.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Succeeded is the condition of a Change that has ended.
const Succeeded = "Succeeded"

// Unmergeable is the reason why a change has not Succeeded that can't be merged with
// the branch, or with another change that goes ahead of it.
const Unmergeable = "Unmergeable"

// Names of steps. That of a deployment is followed by the environment:
// "deploy/prod".
const (
	ReviewStep  = "review"
	BuildStep   = "build"
	TestStep    = "test"
	PreviewStep = "preview"
	MergeStep   = "merge"
	DeployStep  = "deploy"
)

// States of a Step.
const (
	StepWaiting   = "Waiting"
	StepRunning   = "Running"
	StepPassed    = "Passed"
	StepFailed    = "Failed"    // by what the change is
	StepErred     = "Erred"     // by what surrounds it
	StepSkipped   = "Skipped"   // there was nothing to do
	StepCancelled = "Cancelled" // it was ended before it had shown anything
)

// Step is one step of a change.
type Step struct {
	Name  string `json:"name"`
	State string `json:"state"`
	// Commit is what the step worked on: what was pushed, or the result of merging
	// it.
	// +optional
	Commit string `json:"commit,omitempty"`
	// +optional
	Started *metav1.MicroTime `json:"started,omitempty"`
	// +optional
	Ended *metav1.MicroTime `json:"ended,omitempty"`
	// Key is the digest of the step's inputs.
	// +optional
	Key string `json:"key,omitempty"`
	// Cached says why nothing had to be done: "same inputs as ...". It is empty when
	// something was.
	// +optional
	Cached string `json:"cached,omitempty"`
	// Message is the result in a sentence.
	// +optional
	Message string `json:"message,omitempty"`
	// Worker is who did it, and Lease which of the step's leases it was.
	// +optional
	Worker string `json:"worker,omitempty"`
	// +optional
	Lease int32 `json:"lease,omitempty"`
	// Parts are those of a step that several workers do together. What they show is
	// joined in the step.
	// +optional
	// +listType=atomic
	Parts []Part `json:"parts,omitempty"`
	// Services, of a deployment, are those of which it has altered something.
	// +optional
	// +listType=atomic
	Services []string `json:"services,omitempty"`
	// Log is the path below the controller's address where what was printed is.
	// +optional
	Log string `json:"log,omitempty"`
	// Evidence is what was observed, by kind: paths below the controller's address or
	// references of images; of a deployment, commit of the environment's branch, back, the
	// one that has put back what was before, and with, the change that it went along with.
	// +optional
	Evidence map[string]string `json:"evidence,omitempty"`
}

// Part is what one worker does of a step.
type Part struct {
	// Units are what it consists of: of a test, packages and commands. It has none where
	// it is what was known before.
	// +optional
	// +listType=atomic
	Units []string `json:"units,omitempty"`
	State string   `json:"state"`
	// +optional
	Message string `json:"message,omitempty"`
	// Worker is who does it, and Lease which of the part's leases it is.
	// +optional
	Worker string `json:"worker,omitempty"`
	// +optional
	Lease int32 `json:"lease,omitempty"`
	// Result is the path below the controller's address of what it has shown.
	// +optional
	Result string `json:"result,omitempty"`
}

// States of a Run.
const (
	RunRunning   = "Running"
	RunPassed    = "Passed"
	RunFailed    = "Failed"
	RunLost      = "Lost"      // it ended without showing anything
	RunCancelled = "Cancelled" // nobody needs it any more
)

// Run is the test of a combination: the branch with some changes merged into it, of
// which the one that has the Run is the last.
type Run struct {
	// Base is the tree of the branch that the changes were merged into.
	Base string `json:"base"`
	// Changes and Heads are the combination's, in order.
	// +listType=atomic
	Changes []string `json:"changes"`
	// +listType=atomic
	Heads []string `json:"heads"`
	// Commit is the result of merging them.
	Commit string `json:"commit"`
	State  string `json:"state"`
	// Attempt counts the runs of this combination, from 1.
	Attempt int32 `json:"attempt"`
	// +optional
	Steps []Step `json:"steps,omitempty"`
	// Images are what was built, by service.
	// +optional
	Images map[string]string `json:"images,omitempty"`
}

// Preview is an environment of one change.
type Preview struct {
	Namespace string `json:"namespace"`
	// URLs are by service, as pods of the cluster reach them.
	// +optional
	URLs map[string]string `json:"urls,omitempty"`
	// Until is when it is removed.
	// +optional
	Until *metav1.Time `json:"until,omitempty"`
}

// ChangeList is a list of Changes.
//
// +kubebuilder:object:root=true
type ChangeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Change `json:"items"`
}
