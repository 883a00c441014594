package spec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Protocol is what a Service says that a port of it speaks, "" where it does not: http,
// grpc or tcp. Only what is no HTTP has to be known.
func Protocol(p corev1.ServicePort) string {
	if p.AppProtocol == nil {
		return ""
	}
	switch *p.AppProtocol {
	case "http", "kubernetes.io/h2c", "kubernetes.io/ws":
		return "http"
	case "grpc":
		return "grpc"
	case "tcp", "https", "tls", "kubernetes.io/wss", "mysql", "redis", "mongo", "postgresql":
		return "tcp"
	}
	return ""
}

// Unshared says that no request of a Service can be shared or judged, because it says that
// it speaks no HTTP; "" where one may be.
func Unshared(s *corev1.Service) string {
	var speaks []string
	for _, p := range s.Spec.Ports {
		if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP {
			continue
		}
		if Protocol(p) != "tcp" {
			return ""
		}
		speaks = append(speaks, fmt.Sprintf("port %d %s", p.Port, *p.AppProtocol))
	}
	if len(speaks) == 0 {
		return ""
	}
	return fmt.Sprintf("Kubernetes Service %s says that it speaks no HTTP (%s): its connections are stable's until the version is promoted, none of them is judged, and a step that asks for proof is held when the time for a verdict is over", s.Name, strings.Join(speaks, ", "))
}
