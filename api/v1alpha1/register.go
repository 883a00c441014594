package v1alpha1

import (
	"embed"
	"fmt"
	"io/fs"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Group is the name of the API.
const Group = "bight.dev"

// GroupVersion is the API at this version.
func GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: Group, Version: "v1alpha1"}
}

// Intercepts is the resource that Intercepts are.
func Intercepts() schema.GroupVersionResource { return GroupVersion().WithResource("intercepts") }

// Apps is the resource that Apps are.
func Apps() schema.GroupVersionResource { return GroupVersion().WithResource("apps") }

// Changes is the resource that Changes are.
func Changes() schema.GroupVersionResource { return GroupVersion().WithResource("changes") }

// Tickets is the resource that Tickets are.
func Tickets() schema.GroupVersionResource { return GroupVersion().WithResource("tickets") }

// Releases is the resource that Releases are.
func Releases() schema.GroupVersionResource { return GroupVersion().WithResource("releases") }

// ReleasePolicies is the resource that ReleasePolicies are.
func ReleasePolicies() schema.GroupVersionResource {
	return GroupVersion().WithResource("releasepolicies")
}

// AddToScheme makes a scheme know the kinds.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion(), &Intercept{}, &InterceptList{},
		&App{}, &AppList{}, &Change{}, &ChangeList{}, &Ticket{}, &TicketList{}, &Release{}, &ReleaseList{},
		&ReleasePolicy{}, &ReleasePolicyList{})
	metav1.AddToGroupVersion(s, GroupVersion())
	return nil
}

//go:embed crd/*.yaml
var crds embed.FS

// Definitions returns the CustomResourceDefinitions as YAML, one for each kind.
func Definitions() ([][]byte, error) {
	names, err := fs.Glob(crds, "crd/*.yaml")
	if err != nil {
		return nil, err
	}
	var all [][]byte
	for _, name := range names {
		b, err := crds.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read definition %s: %w", name, err)
		}
		all = append(all, b)
	}
	return all, nil
}
