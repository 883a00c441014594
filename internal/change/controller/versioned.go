package controller

import (
	"context"
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/release/config"
)

// versioned has each version of a service have a configuration of its own: the ConfigMaps
// that its Deployment refers to are called by what is in them, and never change. The
// desired state in git has them by their plain names.
func versioned(objs []deploy.Object) ([]deploy.Object, error) {
	out := make([]deploy.Object, 0, len(objs))
	names := map[string]map[config.Ref]string{} // by service
	for _, o := range objs {
		if o.Kind == "ConfigMap" && o.Service != "" {
			next, err := versionOfMap(o)
			if err != nil {
				return nil, err
			}
			if names[o.Service] == nil {
				names[o.Service] = map[config.Ref]string{}
			}
			names[o.Service][config.Ref{Kind: config.ConfigMap, Name: o.Name}] = next.Name
			o = next
		}
		out = append(out, o)
	}
	for i, o := range out {
		if o.Kind != "Deployment" || len(names[o.Service]) == 0 {
			continue
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(o.JSON); err != nil {
			return nil, fmt.Errorf("read %s: %w", o.Ref, err)
		}
		template, _, _ := unstructured.NestedMap(u.Object, "spec", "template") // a copy
		if config.Replace(template, names[o.Service]) == 0 {
			continue
		}
		if err := unstructured.SetNestedMap(u.Object, template, "spec", "template"); err != nil {
			return nil, fmt.Errorf("write %s: %w", o.Ref, err)
		}
		var err error
		if out[i].JSON, err = json.Marshal(u.Object); err != nil {
			return nil, fmt.Errorf("write %s: %w", o.Ref, err)
		}
	}
	return out, nil
}

// versionOfMap is a ConfigMap by the name of what is in it.
func versionOfMap(o deploy.Object) (deploy.Object, error) {
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(o.JSON); err != nil {
		return o, fmt.Errorf("read %s: %w", o.Ref, err)
	}
	var c struct {
		Data       map[string]string
		BinaryData map[string][]byte
	}
	if err := o.Decode(&c); err != nil {
		return o, fmt.Errorf("read %s: %w", o.Ref, err)
	}
	notes := u.GetAnnotations()
	if notes == nil {
		notes = map[string]string{}
	}
	notes[config.Annotation] = o.Name
	u.SetAnnotations(notes)
	o.Name = config.Name(o.Name, config.Content{Text: c.Data, Binary: c.BinaryData})
	u.SetName(o.Name)
	u.Object["immutable"] = true
	var err error
	if o.JSON, err = json.Marshal(u.Object); err != nil {
		return o, fmt.Errorf("write %s: %w", o.Ref, err)
	}
	return o, nil
}

// referred are the ConfigMaps that ReplicaSets of a namespace refer to: their pods may be
// running, or come back.
func (e *environments) referred(ctx context.Context, namespace string) (map[deploy.Ref]bool, error) {
	sets, err := e.typed.AppsV1().ReplicaSets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the ReplicaSets of namespace %s: %w", namespace, err)
	}
	out := map[deploy.Ref]bool{}
	for i := range sets.Items {
		template, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&sets.Items[i].Spec.Template)
		if err != nil {
			return nil, err
		}
		for _, r := range config.Refs(template) {
			if r.Kind == config.ConfigMap {
				out[deploy.Ref{Kind: r.Kind, Namespace: namespace, Name: r.Name}] = true
			}
		}
	}
	return out, nil
}
