package controller

import (
	"strings"
	"testing"

	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/release/config"
)

// cartObjects are those of a service with a configuration.
func cartObjects(mood string) []deploy.Object {
	object := func(kind, group, json string) deploy.Object {
		return deploy.Object{Ref: deploy.Ref{Group: group, Kind: kind, Namespace: "shop", Name: "cart"}, Service: "cart", JSON: []byte(json)}
	}
	return []deploy.Object{
		object("ConfigMap", "", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"cart","namespace":"shop"},"data":{"MOOD":"`+mood+`"}}`),
		object("Deployment", "apps", `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"cart","namespace":"shop"},"spec":{"template":{"spec":{"serviceAccountName":"cart","containers":[
			{"name":"cart","envFrom":[{"configMapRef":{"name":"cart"}},{"secretRef":{"name":"cart"}}]}]}}}}`),
		{Ref: deploy.Ref{Group: "apps", Kind: "Deployment", Namespace: "shop", Name: "stock"}, Service: "stock", JSON: []byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"stock"},"spec":{"template":{}}}`)},
	}
}

func TestEachVersionHasAConfigurationOfItsOwn(t *testing.T) {
	objs := cartObjects("fine")
	got, err := versioned(objs)
	if err != nil || len(got) != 3 {
		t.Fatalf("%d objects, %v", len(got), err)
	}
	name := got[0].Name
	text := string(got[0].JSON)
	if config.Base(name) != "cart" || !strings.Contains(text, `"immutable":true`) || !strings.Contains(text, `"name":"`+name+`"`) || !strings.Contains(text, `"bight.dev/config":"cart"`) {
		t.Errorf("the ConfigMap is %s", text)
	}
	deployment := string(got[1].JSON)
	if !strings.Contains(deployment, `{"configMapRef":{"name":"`+name+`"}}`) || !strings.Contains(deployment, `{"secretRef":{"name":"cart"}}`) || got[1].Name != "cart" {
		t.Errorf("the Deployment is %s", deployment)
	}
	if string(got[2].JSON) != string(objs[2].JSON) || objs[0].Name != "cart" {
		t.Error("what has no configuration has changed, or what was given")
	}
	again, err := versioned(cartObjects("fine"))
	if err != nil || again[0].Name != name {
		t.Errorf("the same is called %s and %s, %v", name, again[0].Name, err)
	}
	other, err := versioned(cartObjects("sad"))
	if err != nil || other[0].Name == name {
		t.Errorf("another is called %s, too, %v", name, err)
	}
}
