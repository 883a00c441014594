// Package podports tells which TCP ports a pod has, and what kubelet asks of them:
// what has to be known to steer requests for a pod and leave its probes alone.
//
// The main type is [Port]. The package is pure; its functions are safe for concurrent
// use.
package podports

import (
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
)

// Port is a TCP port of a pod.
type Port struct {
	Number int
	// Probes are HTTP paths that kubelet asks under another name than its own. What it
	// asks under its own is known by that.
	Probes []string
	// Silent says that kubelet probes the port without saying who it is: by a
	// connection alone, or inside TLS.
	Silent bool
}

// Of returns the TCP ports that a pod's containers declare, after them those that
// kubelet probes, and then others that are wanted.
func Of(pod *core.Pod, wanted ...int) []Port {
	var numbers []int
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if p.Protocol == core.ProtocolTCP || p.Protocol == "" {
				numbers = append(numbers, int(p.ContainerPort))
			}
		}
	}
	for _, c := range pod.Spec.Containers {
		for _, p := range probes(c) {
			if n := probed(c, p.ProbeHandler); n != 0 {
				numbers = append(numbers, n)
			}
		}
	}
	var all []Port
	for _, number := range append(numbers, wanted...) {
		if !slices.ContainsFunc(all, func(p Port) bool { return p.Number == number }) {
			all = append(all, of(pod, number))
		}
	}
	return all
}

func of(pod *core.Pod, number int) Port {
	port := Port{Number: number}
	for _, c := range pod.Spec.Containers {
		for _, p := range probes(c) {
			if probed(c, p.ProbeHandler) == number {
				port.add(p.ProbeHandler)
			}
		}
	}
	return port
}

// probes are what kubelet asks of a container.
func probes(c core.Container) []*core.Probe {
	return slices.DeleteFunc([]*core.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe}, func(p *core.Probe) bool { return p == nil })
}

func (p *Port) add(h core.ProbeHandler) {
	named := func(o core.HTTPHeader) bool { return strings.EqualFold(o.Name, "User-Agent") }
	if h.HTTPGet != nil && slices.ContainsFunc(h.HTTPGet.HTTPHeaders, named) && !slices.Contains(p.Probes, h.HTTPGet.Path) {
		p.Probes = append(p.Probes, h.HTTPGet.Path)
	}
	if h.TCPSocket != nil || h.HTTPGet != nil && h.HTTPGet.Scheme == core.URISchemeHTTPS {
		p.Silent = true
	}
}

// probed is the port that a probe is about.
func probed(c core.Container, h core.ProbeHandler) int {
	switch {
	case h.HTTPGet != nil:
		return number(c, h.HTTPGet.Port.IntValue(), h.HTTPGet.Port.StrVal)
	case h.TCPSocket != nil:
		return number(c, h.TCPSocket.Port.IntValue(), h.TCPSocket.Port.StrVal)
	case h.GRPC != nil:
		return int(h.GRPC.Port)
	}
	return 0
}

func number(c core.Container, number int, name string) int {
	for _, p := range c.Ports {
		if name != "" && p.Name == name {
			return int(p.ContainerPort)
		}
	}
	return number
}
