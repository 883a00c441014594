package podview

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/bightdev/bight/internal/reach"
)

// Source reads what the spec of a pod refers to, as text.
type Source struct {
	ConfigMap, Secret func(ctx context.Context, name string) (map[string]string, error)
}

// Specified is the environment that a pod's spec gives to one of its containers, as
// kubelet would resolve it now: without what the image and the runtime add, and the
// addresses of Kubernetes Services. A pod without a name is one to come. unknown are the variables, and why, that can't be
// told from here; they are not in env.
func Specified(ctx context.Context, pod *core.Pod, c *core.Container, from Source) (env []reach.Variable, unknown []string) {
	s := spec{pod: pod, from: from, values: map[string]string{}, lost: map[string]bool{}, read: map[string]result{}}
	for _, e := range c.EnvFrom {
		s.all(ctx, e)
	}
	for _, e := range c.Env {
		s.one(ctx, e)
	}
	for _, name := range slices.Sorted(maps.Keys(s.values)) {
		env = append(env, reach.Variable{Name: name, Value: s.values[name]})
	}
	return env, s.unknown
}

// spec is an environment while it is put together.
type spec struct {
	pod     *core.Pod
	from    Source
	values  map[string]string
	lost    map[string]bool // variables that are not known
	unknown []string
	read    map[string]result // ConfigMaps and Secrets, by kind and name
}

type result struct {
	data map[string]string
	err  error
}

func (s *spec) get(ctx context.Context, kind, name string) (map[string]string, error) {
	key := kind + " " + name
	r, ok := s.read[key]
	if !ok {
		read := s.from.ConfigMap
		if kind == "Secret" {
			read = s.from.Secret
		}
		r.data, r.err = read(ctx, name)
		s.read[key] = r
	}
	return r.data, r.err
}

// all takes in a whole ConfigMap or Secret.
func (s *spec) all(ctx context.Context, e core.EnvFromSource) {
	var kind, name string
	var optional *bool
	switch {
	case e.ConfigMapRef != nil:
		kind, name, optional = "ConfigMap", e.ConfigMapRef.Name, e.ConfigMapRef.Optional
	case e.SecretRef != nil:
		kind, name, optional = "Secret", e.SecretRef.Name, e.SecretRef.Optional
	default:
		return
	}
	data, err := s.get(ctx, kind, name)
	switch {
	case err != nil && apierrors.IsNotFound(err) && optional != nil && *optional:
	case err != nil:
		s.unknown = append(s.unknown, fmt.Sprintf("all of %s %s (%v)", kind, name, err))
	}
	for k, v := range data {
		s.values[e.Prefix+k] = v
	}
}

// one takes in one variable.
func (s *spec) one(ctx context.Context, e core.EnvVar) {
	var value string
	var err error
	there := true
	if e.Value != "" || e.ValueFrom == nil {
		value, err = s.expand(e.Value)
	} else {
		value, there, err = s.referred(ctx, e.ValueFrom)
	}
	switch {
	case err != nil:
		delete(s.values, e.Name)
		s.lost[e.Name] = true
		s.unknown = append(s.unknown, fmt.Sprintf("%s (%v)", e.Name, err))
	case there:
		delete(s.lost, e.Name)
		s.values[e.Name] = value
	}
}

// referred is the value that a variable takes from elsewhere, false for one that is
// optional and not there.
func (s *spec) referred(ctx context.Context, from *core.EnvVarSource) (value string, there bool, err error) {
	switch {
	case from.ConfigMapKeyRef != nil:
		r := from.ConfigMapKeyRef
		return s.key(ctx, "ConfigMap", r.Name, r.Key, r.Optional)
	case from.SecretKeyRef != nil:
		r := from.SecretKeyRef
		return s.key(ctx, "Secret", r.Name, r.Key, r.Optional)
	case from.FieldRef != nil:
		value, err := s.field(from.FieldRef.FieldPath)
		return value, true, err
	case from.ResourceFieldRef != nil:
		return "", false, fmt.Errorf("kubelet computes %s", from.ResourceFieldRef.Resource)
	}
	return "", false, fmt.Errorf("its source is of no kind that is known here")
}

func (s *spec) key(ctx context.Context, kind, name, key string, optional *bool) (string, bool, error) {
	data, err := s.get(ctx, kind, name)
	value, there := data[key]
	missing := apierrors.IsNotFound(err) || err == nil && !there
	switch {
	case missing && optional != nil && *optional:
		return "", false, nil
	case err != nil:
		return "", false, err
	case !there:
		return "", false, fmt.Errorf("%s %s has no key %s", kind, name, key)
	}
	return value, true, nil
}

// field is a field of the pod, by the downward API.
func (s *spec) field(path string) (string, error) {
	p := s.pod
	if p.Name == "" && path != "metadata.namespace" {
		return "", fmt.Errorf("there is no pod to say its %s", path)
	}
	for prefix, of := range map[string]map[string]string{"metadata.labels['": p.Labels, "metadata.annotations['": p.Annotations} {
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			return of[strings.TrimSuffix(rest, "']")], nil // one that is not there is ""
		}
	}
	var ips, hosts []string
	for _, ip := range p.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	for _, ip := range p.Status.HostIPs {
		hosts = append(hosts, ip.IP)
	}
	value := map[string]string{
		"metadata.name": p.Name, "metadata.namespace": p.Namespace, "metadata.uid": string(p.UID),
		"spec.nodeName": p.Spec.NodeName, "spec.serviceAccountName": cmp.Or(p.Spec.ServiceAccountName, "default"),
		"status.podIP": p.Status.PodIP, "status.podIPs": strings.Join(ips, ","),
		"status.hostIP": p.Status.HostIP, "status.hostIPs": strings.Join(hosts, ","),
	}[path]
	if value == "" {
		return "", fmt.Errorf("pod %s does not say its %s", p.Name, path)
	}
	return value, nil
}

// expand replaces $(NAME) by the value of a variable that there is already, as kubelet
// does: any other reference stays as it is, and $$ is a dollar sign.
func (s *spec) expand(text string) (string, error) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(text, "$")
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		text = rest
		name, after, closed := strings.Cut(strings.TrimPrefix(rest, "("), ")")
		switch {
		case strings.HasPrefix(rest, "$"):
			out.WriteByte('$')
			text = rest[1:]
		case !strings.HasPrefix(rest, "(") || !closed:
			out.WriteByte('$')
		default:
			value, known := s.values[name]
			switch {
			case s.lost[name]:
				return "", fmt.Errorf("it has the value of %s", name)
			case !known && ofService(name):
				return "", fmt.Errorf("it may have the value of %s, of a Kubernetes Service", name)
			case !known:
				value = "$(" + name + ")"
			}
			out.WriteString(value)
			text = after
		}
	}
}

// ofService tells names that the variables of Kubernetes Services have.
func ofService(name string) bool {
	return strings.HasSuffix(name, "_SERVICE_HOST") || strings.Contains(name, "_SERVICE_PORT") || strings.Contains(name, "_PORT_") || strings.HasSuffix(name, "_PORT")
}
