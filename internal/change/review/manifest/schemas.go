package manifest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/openapi"
	"k8s.io/client-go/openapi3"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Cluster are the schemas that a cluster serves.
type Cluster struct{ Client openapi.Client }

// Schemas implements [Schemas].
func (c Cluster) Schemas(ctx context.Context, gv schema.GroupVersion) (map[string]*spec.Schema, error) {
	type answer struct {
		doc *spec3.OpenAPI
		err error
	}
	// The client takes no context. Its request ends by the client's own timeout;
	// the channel has room, so that nobody has to wait for it.
	done := make(chan answer, 1)
	go func() {
		doc, err := openapi3.NewRoot(c.Client).GVSpec(gv)
		done <- answer{doc, err}
	}()
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case a := <-done:
		var unknown *openapi3.GroupVersionNotFoundError
		if errors.As(a.err, &unknown) {
			return nil, fmt.Errorf("%s: %w", gv, fs.ErrNotExist)
		}
		if a.err != nil {
			return nil, fmt.Errorf("ask the cluster for the OpenAPI document of %s: %w", gv, a.err)
		}
		return components(a.doc, gv)
	}
}

func components(doc *spec3.OpenAPI, gv schema.GroupVersion) (map[string]*spec.Schema, error) {
	if doc == nil || doc.Components == nil {
		return nil, fmt.Errorf("the OpenAPI document of %s has no components", gv)
	}
	return doc.Components.Schemas, nil
}
