package podview

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/bightdev/bight/internal/reach"
)

// environment computes the variables of a container, by the rules that kubelet
// follows: first those of envFrom, then those of env, which replace them and may
// refer to what is there already, then those of Kubernetes Services, as far as
// nothing else has their names.
type environment struct {
	pod       *corev1.Pod
	container *corev1.Container
	objects   *objects

	vars     map[string]string // without those of services
	order    []string          // of vars
	services map[string]string
	notes    []string
}

func (e *environment) compute() []reach.Variable {
	e.vars = map[string]string{}
	e.services = serviceVariables(e.objects.services)
	for _, from := range e.container.EnvFrom {
		e.from(from)
	}
	for _, v := range e.container.Env {
		value, ok, err := e.value(v)
		if err != nil {
			e.notes = append(e.notes, fmt.Sprintf("variable %s is left out: %v", v.Name, err))
		}
		if ok && err == nil {
			e.set(v.Name, value)
		}
	}
	var all []reach.Variable
	for _, name := range e.order {
		all = append(all, reach.Variable{Name: name, Value: e.vars[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(e.services)) {
		if _, ok := e.vars[name]; !ok {
			all = append(all, reach.Variable{Name: name, Value: e.services[name]})
		}
	}
	return all
}

func (e *environment) set(name, value string) {
	if _, ok := e.vars[name]; !ok {
		e.order = append(e.order, name)
	}
	e.vars[name] = value
}

// from takes all keys of a ConfigMap or a Secret.
func (e *environment) from(from corev1.EnvFromSource) {
	missing := func(what, name string, optional *bool) {
		if optional == nil || !*optional {
			e.notes = append(e.notes, fmt.Sprintf("variables of %s %q are left out: it does not exist", what, name))
		}
	}
	if r := from.ConfigMapRef; r != nil {
		if o := e.objects.configMaps[r.Name]; o != nil {
			for _, k := range slices.Sorted(maps.Keys(o.Data)) {
				e.set(from.Prefix+k, o.Data[k])
			}
		} else {
			missing("ConfigMap", r.Name, r.Optional)
		}
	}
	if r := from.SecretRef; r != nil {
		if o := e.objects.secrets[r.Name]; o != nil {
			for _, k := range slices.Sorted(maps.Keys(o.Data)) {
				e.set(from.Prefix+k, string(o.Data[k]))
			}
		} else {
			missing("Secret", r.Name, r.Optional)
		}
	}
}

// value finds the value of a variable; ok is false for an optional one that there
// is not.
func (e *environment) value(v corev1.EnvVar) (value string, ok bool, err error) {
	if v.Value != "" || v.ValueFrom == nil {
		return expand(v.Value, e.lookup), true, nil
	}
	switch from := v.ValueFrom; {
	case from.FieldRef != nil:
		value, err = fieldValue(e.pod, from.FieldRef.FieldPath)
		return value, true, err
	case from.ResourceFieldRef != nil:
		value, err = resourceValue(e.pod, e.container, from.ResourceFieldRef, e.objects.allocatable)
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		r := from.ConfigMapKeyRef
		if o := e.objects.configMaps[r.Name]; o != nil {
			value, ok = o.Data[r.Key]
		}
		return value, ok, noKey(ok, r.Optional, "ConfigMap", r.Name, r.Key)
	case from.SecretKeyRef != nil:
		r := from.SecretKeyRef
		var b []byte
		if o := e.objects.secrets[r.Name]; o != nil {
			b, ok = o.Data[r.Key]
		}
		return string(b), ok, noKey(ok, r.Optional, "Secret", r.Name, r.Key)
	case from.FileKeyRef != nil:
		return "", false, fmt.Errorf("it is read from a file of volume %q when the container starts", from.FileKeyRef.VolumeName)
	}
	return "", true, nil
}

func noKey(ok bool, optional *bool, what, name, key string) error {
	if ok || optional != nil && *optional {
		return nil
	}
	return fmt.Errorf("%s %q does not exist or has no key %q", what, name, key)
}

// lookup is how references between variables are resolved.
func (e *environment) lookup(name string) (string, bool) {
	if v, ok := e.vars[name]; ok {
		return v, true
	}
	v, ok := e.services[name]
	return v, ok
}

// expand replaces references $(NAME). One that is not known stays as it is, $$
// stands for a dollar sign, and any other use of that for itself.
func expand(s string, lookup func(string) (string, bool)) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || i+1 == len(s) {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(s[:i])
		s = s[i+1:]
		end := strings.IndexByte(s, ')')
		switch {
		case s[0] == '$':
			b.WriteByte('$')
			s = s[1:]
		case s[0] == '(' && end > 0:
			if v, ok := lookup(s[1:end]); ok {
				b.WriteString(v)
			} else {
				b.WriteString("$" + s[:end+1])
			}
			s = s[end+1:]
		default:
			b.WriteByte('$')
		}
	}
}

// serviceVariables are those that tell a container of Kubernetes Services that
// have an address, in the two forms that there are.
func serviceVariables(services []corev1.Service) map[string]string {
	vars := map[string]string{}
	for _, s := range services {
		ip := s.Spec.ClusterIP
		if ip == "" || ip == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		name := variableName(s.Name)
		vars[name+"_SERVICE_HOST"] = ip
		vars[name+"_SERVICE_PORT"] = portText(s.Spec.Ports[0])
		for i, p := range s.Spec.Ports {
			if p.Name != "" {
				vars[name+"_SERVICE_PORT_"+variableName(p.Name)] = portText(p)
			}
			protocol := string(p.Protocol)
			if protocol == "" {
				protocol = string(corev1.ProtocolTCP)
			}
			url := strings.ToLower(protocol) + "://" + net.JoinHostPort(ip, portText(p))
			if i == 0 {
				vars[name+"_PORT"] = url
			}
			link := name + "_PORT_" + portText(p) + "_" + strings.ToUpper(protocol)
			vars[link] = url
			vars[link+"_PROTO"] = strings.ToLower(protocol)
			vars[link+"_PORT"] = portText(p)
			vars[link+"_ADDR"] = ip
		}
	}
	return vars
}

func portText(p corev1.ServicePort) string { return strconv.Itoa(int(p.Port)) }

func variableName(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }
