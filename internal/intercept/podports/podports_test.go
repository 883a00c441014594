package podports

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestPortsAndTheirProbes(t *testing.T) {
	get := func(path string, port intstr.IntOrString, scheme core.URIScheme) *core.Probe {
		named := []core.HTTPHeader{{Name: "user-agent", Value: "probe"}}
		return &core.Probe{ProbeHandler: core.ProbeHandler{HTTPGet: &core.HTTPGetAction{Path: path, Port: port, Scheme: scheme, HTTPHeaders: named}}}
	}
	ports := []core.ContainerPort{
		{Name: "http", ContainerPort: 8080}, {Name: "dns", ContainerPort: 53, Protocol: core.ProtocolUDP}, {Name: "raw", ContainerPort: 7000, Protocol: core.ProtocolTCP},
	}
	for _, tt := range []struct {
		name       string
		containers []core.Container
		wanted     []int
		want       []Port
	}{
		{"none", []core.Container{{}}, nil, nil},
		{"declared ones", []core.Container{{Ports: ports}, {Ports: ports[:1]}}, nil, []Port{{Number: 8080}, {Number: 7000}}},
		{"wanted ones", []core.Container{{Ports: ports}}, []int{7000, 9000}, []Port{{Number: 8080}, {Number: 7000}, {Number: 9000}}},
		{"a probe by name", []core.Container{{Ports: ports, ReadinessProbe: get("/ready", intstr.FromString("http"), ""), LivenessProbe: get("/live", intstr.FromInt32(8080), "HTTP")}}, nil,
			[]Port{{Number: 8080, Probes: []string{"/live", "/ready"}}, {Number: 7000}}},
		{"the same path twice", []core.Container{{Ports: ports[:1], ReadinessProbe: get("/", intstr.FromInt32(8080), ""), StartupProbe: get("/", intstr.FromInt32(8080), "")}}, nil,
			[]Port{{Number: 8080, Probes: []string{"/"}}}},
		{"silent ones", []core.Container{{
			Ports:          ports,
			ReadinessProbe: get("/", intstr.FromString("http"), core.URISchemeHTTPS),
			LivenessProbe:  &core.Probe{ProbeHandler: core.ProbeHandler{TCPSocket: &core.TCPSocketAction{Port: intstr.FromString("raw")}}},
		}}, nil, []Port{{Number: 8080, Probes: []string{"/"}, Silent: true}, {Number: 7000, Silent: true}}},
		{"probed ones", []core.Container{{Ports: ports[:1], ReadinessProbe: get("/", intstr.FromInt32(9001), "")}}, nil,
			[]Port{{Number: 8080}, {Number: 9001, Probes: []string{"/"}}}},
		{"kubelet says who it is", []core.Container{{Ports: ports[:1], ReadinessProbe: &core.Probe{ProbeHandler: core.ProbeHandler{HTTPGet: &core.HTTPGetAction{
			Path: "/", Port: intstr.FromInt32(8080), HTTPHeaders: []core.HTTPHeader{{Name: "Accept", Value: "text/plain"}},
		}}}}}, nil, []Port{{Number: 8080}}},
		{"gRPC says who it is", []core.Container{{Ports: ports[:1], ReadinessProbe: &core.Probe{ProbeHandler: core.ProbeHandler{GRPC: &core.GRPCAction{Port: 8080}}}}}, nil,
			[]Port{{Number: 8080}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, Of(&core.Pod{Spec: core.PodSpec{Containers: tt.containers}}, tt.wanted...)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}
