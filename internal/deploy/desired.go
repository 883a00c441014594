package deploy

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// WithoutSecrets returns the objects that are no Secrets: values of those have no
// place in a repository, nor in what is made from one. [SecretsOf] tells which are
// needed.
func WithoutSecrets(objs []Object) []Object {
	return slices.DeleteFunc(slices.Clone(objs), func(o Object) bool { return o.Kind == "Secret" })
}

// Desired writes the objects of an environment, without Secrets, as files for a
// repository: a kustomize base, a file per service.
func Desired(namespace string, objs []Object) (map[string][]byte, error) {
	files, err := ejected(namespace, WithoutSecrets(objs))
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for name, f := range files {
		out[name] = f.content
	}
	return out, nil
}

// ReadDesired reads what Desired wrote, in whatever files it is. It refuses kinds that
// Bight does not render and objects of other namespaces: what is in a repository is
// applied with rights that its authors may not have.
func ReadDesired(namespace string, files map[string][]byte) ([]Object, error) {
	var objs []Object
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if ext := path.Ext(name); ext != ".yaml" || path.Base(name) == "kustomization.yaml" {
			continue
		}
		d := yaml.NewYAMLToJSONDecoder(bytes.NewReader(files[name]))
		for i := 1; ; i++ {
			u := &unstructured.Unstructured{}
			if err := d.Decode(&u.Object); err != nil {
				if err.Error() == "EOF" {
					break
				}
				return nil, fmt.Errorf("%s, object %d: %w", name, i, err)
			}
			if len(u.Object) == 0 {
				continue
			}
			o, err := desired(namespace, u)
			if err != nil {
				return nil, fmt.Errorf("%s, object %d: %w", name, i, err)
			}
			objs = append(objs, o)
		}
	}
	return objs, nil
}

func desired(namespace string, u *unstructured.Unstructured) (Object, error) {
	gvk := u.GroupVersionKind()
	k, ok := kindOf(gvk.GroupKind())
	switch {
	case !ok || k.Kind == "Secret" || k.Version != gvk.Version:
		return Object{}, fmt.Errorf("%s %s is of no kind that is deployed from a repository", gvk.Kind, u.GetName())
	case u.GetNamespace() != namespace && u.GetNamespace() != "":
		return Object{}, fmt.Errorf("%s %s is for namespace %s, and this is the desired state of %s", gvk.Kind, u.GetName(), u.GetNamespace(), namespace)
	}
	u.SetNamespace(namespace)
	b, err := u.MarshalJSON()
	if err != nil {
		return Object{}, err
	}
	return Object{
		Ref:     Ref{Group: gvk.Group, Kind: gvk.Kind, Namespace: namespace, Name: u.GetName()},
		Service: u.GetLabels()[labelName], JSON: bytes.TrimSpace(b),
	}, nil
}

// SecretsOf returns the keys that each Secret must have for the objects to run, by
// the Secret's name.
func SecretsOf(objs []Object) map[string][]string {
	out := map[string][]string{}
	for _, o := range objs {
		if o.Kind != "Secret" {
			continue
		}
		var s struct{ Data map[string]any }
		if o.Decode(&s) == nil {
			out[o.Name] = slices.Sorted(maps.Keys(s.Data))
		}
	}
	return out
}

// Same reports whether two sets of files are the same desired state.
func Same(a, b map[string][]byte) bool {
	return maps.EqualFunc(a, b, func(x, y []byte) bool { return bytes.Equal(x, y) })
}
