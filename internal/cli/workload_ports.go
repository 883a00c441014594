package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

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
	known := slices.ContainsFunc(s.service.Ports, func(p app.Port) bool { return p.Name == port || strconv.Itoa(p.Number) == port })
	switch {
	case s.workload == "":
	case valid && s.pods.behind[number] != 0:
		return strconv.Itoa(s.pods.behind[number]), nil
	case len(s.pods.behind) > 0 && port != "" && !known:
		return "", codedError{code: exitNotFound, err: fmt.Errorf("%s has no port %s; there is %s", s.workload, port, strings.Join(s.offered(), ", "))}
	case len(s.service.Ports) > 0:
	case valid:
		s.service.Ports = []app.Port{{Name: port, Number: number}}
	default:
		return "", usageError("nothing says which ports %s has, neither its containers nor a Kubernetes Service: say on which one its process listens, by its number (bight run: --port NUMBER; bight intercept: --port LOCAL:NUMBER)", s.workload)
	}
	return port, nil
}

// offered are the TCP ports of a Kubernetes Service, by its own numbers, with their names
// and what of the pods is behind them.
func (s *subject) offered() []string {
	var all []string
	for _, number := range slices.Sorted(maps.Keys(s.pods.behind)) {
		behind := s.pods.behind[number]
		var says []string
		i := slices.IndexFunc(s.service.Ports, func(p app.Port) bool { return p.Number == behind && p.Protocol != app.UDP })
		if i >= 0 && s.service.Ports[i].Name != strconv.Itoa(behind) {
			says = append(says, s.service.Ports[i].Name)
		}
		if behind != number {
			says = append(says, fmt.Sprintf("%d of its pods", behind))
		}
		text := strconv.Itoa(number)
		if len(says) > 0 {
			text += " (" + strings.Join(says, ", ") + ")"
		}
		all = append(all, text)
	}
	return all
}
