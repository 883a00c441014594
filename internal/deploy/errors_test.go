package deploy

import "testing"

func TestMissingRightsAreNamedByKind(t *testing.T) {
	err := &RightsError{User: "ada", Namespace: "shop-ada", Advice: "ask", Missing: []Right{
		{Verb: "get", Resource: "pods"},
		{Verb: "create", Group: "apps", Resource: "deployments"},
		{Verb: "list", Resource: "pods"},
		{Verb: "create", Resource: "pods/portforward"},
	}}
	want := "you (ada) may not get, list pods; create deployments.apps; create pods/portforward in namespace shop-ada: ask"
	if got := err.Error(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
