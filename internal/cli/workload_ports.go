package cli

import (
	"slices"
	"strconv"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/bightdev/bight/internal/app"
)

// servedPorts are the ports behind those of a Kubernetes Service, and which of the
// Service's own numbers leads to which.
func servedPorts(s *core.Service, named func(string) int) (ports []app.Port, behind map[int]int) {
	behind = map[int]int{}
	for _, p := range s.Spec.Ports {
		number := int(p.TargetPort.IntVal)
		switch {
		case p.TargetPort.Type == intstr.String:
			number = named(p.TargetPort.StrVal)
		case number == 0:
			number = int(p.Port)
		}
		if number == 0 {
			continue
		}
		ports = addPort(ports, p.Name, number, p.Protocol, p.AppProtocol)
		if p.Protocol == core.ProtocolTCP || p.Protocol == "" {
			behind[int(p.Port)] = number
		}
	}
	return ports, behind
}

// undeclared are the ports of a workload whose containers declare none, which they need
// not: those behind the Kubernetes Services that lead to its pods.
func undeclared(services []core.Service, of map[string]string, named func(string) int) (ports []app.Port) {
	for i := range services {
		selector := services[i].Spec.Selector
		if len(selector) == 0 || !labels.SelectorFromSet(selector).Matches(labels.Set(of)) {
			continue
		}
		served, _ := servedPorts(&services[i], named)
		for _, p := range served {
			if !slices.ContainsFunc(ports, func(o app.Port) bool {
				return o.Number == p.Number && (o.Protocol == app.UDP) == (p.Protocol == app.UDP)
			}) {
				ports = append(ports, p)
			}
		}
	}
	return ports
}

// namedIn finds the number that a port's name stands for in containers, 0 if in none.
func namedIn(containers []core.Container) func(string) int {
	return func(name string) int {
		for _, c := range containers {
			for _, p := range c.Ports {
				if p.Name == name {
					return int(p.ContainerPort)
				}
			}
		}
		return 0
	}
}

// portOf makes of what --port says the port of the pods: of a Kubernetes Service, its own
// number stands for the one behind it. Where nothing says which ports the pods have, any
// number will do.
func (s *subject) portOf(port string) (string, error) {
	number, err := strconv.Atoi(port)
	valid := err == nil && number > 0 && number <= 65535
	switch {
	case s.workload == "":
	case valid && s.pods.behind[number] != 0:
		return strconv.Itoa(s.pods.behind[number]), nil
	case len(s.service.Ports) > 0:
	case valid:
		s.service.Ports = []app.Port{{Name: port, Number: number}}
	default:
		return "", usageError("nothing says which ports %s has, neither its containers nor a Kubernetes Service: say on which one its process listens, by its number (bight run: --port NUMBER; bight intercept: --port LOCAL:NUMBER)", s.workload)
	}
	return port, nil
}
