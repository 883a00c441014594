package deploy

import (
	"strings"
	"testing"
)

// deploymentOf is a Deployment of one container with an image.
func deploymentOf(image string) []Object {
	return []Object{{
		Ref: Ref{Kind: "Deployment", Namespace: "shop-prod", Name: "cart"}, Service: "cart",
		JSON: []byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"cart","namespace":"shop-prod"},` +
			`"spec":{"template":{"spec":{"containers":[{"name":"cart","image":"` + image + `"}]}}}}`),
	}}
}

// Who follows an environment's branch with another tool reads there what it deploys: the
// images are built by then, and nothing is to be replaced.
func TestAnEnvironmentsKustomizationNamesNoImagesToBuild(t *testing.T) {
	built, err := Desired("shop-prod", deploymentOf("localhost:5000/shop/cart@sha256:e696"))
	if err != nil {
		t.Fatal(err)
	}
	if k := string(built["kustomization.yaml"]); strings.Contains(k, "image") || !strings.Contains(k, "namespace: shop-prod") {
		t.Errorf("of images that are built:\n%s", k)
	}
	if !strings.Contains(string(built["cart.yaml"]), "image: localhost:5000/shop/cart@sha256:e696") {
		t.Errorf("cart.yaml:\n%s", built["cart.yaml"])
	}
	not, err := Desired("shop-prod", deploymentOf("cart"))
	if err != nil {
		t.Fatal(err)
	}
	if k := string(not["kustomization.yaml"]); !strings.Contains(k, "# The images are not built yet") || !strings.Contains(k, "newName: cart") {
		t.Errorf("of images that are not:\n%s", k)
	}
}
