package spec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Target is the container's port that a Service's port leads to.
func Target(p corev1.ServicePort, t *corev1.PodTemplateSpec) (int32, error) {
	switch {
	case p.TargetPort.Type == intstr.String:
		if number, has := named(p.TargetPort.StrVal, t); has {
			return number, nil
		}
		return 0, fmt.Errorf("no container has a port named %s", p.TargetPort.StrVal)
	case p.TargetPort.IntVal != 0:
		return p.TargetPort.IntVal, nil
	}
	return p.Port, nil
}

// named is the container's port of a name.
func named(name string, t *corev1.PodTemplateSpec) (number int32, has bool) {
	for _, c := range t.Spec.Containers {
		for _, p := range c.Ports {
			if p.Name == name {
				return p.ContainerPort, true
			}
		}
	}
	return 0, false
}
