// Package v1alpha1 is Bight's Kubernetes API: the kinds that `bight install` adds to
// a cluster.
//
// The main types are [Intercept], somebody's right to have requests of a pod, or what
// its process was given, on their machine; [App], an application and the environments
// that it goes to; and [Change], one commit on its way there. The types are data; all rules about them
// are in the markers here, from which the definitions in directory crd are generated,
// and in the admission policy that package install renders. Values are not
// safe for concurrent changes.
//
// +kubebuilder:object:generate=true
// +groupName=bight.dev
package v1alpha1

//go:generate go run sigs.k8s.io/controller-tools/cmd/controller-gen@v0.21.0 object crd:allowDangerousTypes=true paths=. output:crd:dir=crd
