package spec

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestUnshared(t *testing.T) {
	port := func(number int32, speaks string) corev1.ServicePort {
		p := corev1.ServicePort{Port: number}
		if speaks != "" {
			p.AppProtocol = &speaks
		}
		return p
	}
	udp := port(53, "")
	udp.Protocol = corev1.ProtocolUDP
	for _, tt := range []struct {
		name  string
		ports []corev1.ServicePort
		want  string
	}{
		{"no word of it", []corev1.ServicePort{port(80, "")}, ""},
		{"one of HTTP", []corev1.ServicePort{port(6379, "redis"), port(80, "http")}, ""},
		{"none of HTTP", []corev1.ServicePort{port(6379, "redis"), udp, port(443, "https")}, "(port 6379 redis, port 443 https)"},
		{"only datagrams", []corev1.ServicePort{udp}, ""},
	} {
		s := &corev1.Service{Spec: corev1.ServiceSpec{Ports: tt.ports}}
		if got := Unshared(s); tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q", tt.name, got)
		}
	}
}
