package policy

import "k8s.io/apimachinery/pkg/runtime/schema"

// fill is the fields that the API server gives an object that lacks them, before it
// asks its policies. Below a field it is a value; a fill, for an object that is made
// where there is none; a present, for one that is filled where there is one; or an
// each, for the elements of a list.
type fill map[string]any

type (
	present fill
	each    fill
)

var (
	probe = present{
		"timeoutSeconds": int64(1), "periodSeconds": int64(10), "successThreshold": int64(1), "failureThreshold": int64(3),
		"httpGet": present{"path": "/", "scheme": "HTTP"},
		"grpc":    present{"service": ""},
	}
	container = each{
		// Bight deploys images by digest.
		"imagePullPolicy":        "IfNotPresent",
		"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
		"resources":     fill{},
		"ports":         each{"protocol": "TCP"},
		"livenessProbe": probe, "readinessProbe": probe, "startupProbe": probe,
	}
	volume = each{
		"configMap": present{"defaultMode": int64(0o644)},
		"secret":    present{"defaultMode": int64(0o644)},
		"projected": present{"defaultMode": int64(0o644)},
	}
	pod = fill{
		"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
		"terminationGracePeriodSeconds": int64(30), "securityContext": fill{},
		"containers": container, "initContainers": container, "volumes": volume,
	}
)

// fills are those of the kinds that Bight renders.
var fills = map[schema.GroupVersionKind]fill{
	{Group: "apps", Version: "v1", Kind: "Deployment"}: {"spec": present{
		"replicas": int64(1), "revisionHistoryLimit": int64(10), "progressDeadlineSeconds": int64(600),
		"strategy": fill{"type": "RollingUpdate"},
		"template": present{"spec": pod},
	}},
	{Version: "v1", Kind: "Service"}: {"spec": present{
		"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "ports": each{"protocol": "TCP"},
	}},
	{Version: "v1", Kind: "PersistentVolumeClaim"}: {"spec": present{"volumeMode": "Filesystem"}},
}

// defaulted returns an object as the API server shows it to its policies: a rule about
// spec.replicas is one about a Deployment that leaves that out, too.
func defaulted(v map[string]any) map[string]any {
	with, known := fills[kindOf(v)]
	if v == nil || !known {
		return v
	}
	out := with.in(v)
	spec, _ := out["spec"].(map[string]any)
	if strategy, _ := spec["strategy"].(map[string]any); strategy["type"] == "RollingUpdate" {
		spec["strategy"] = fill{"rollingUpdate": fill{"maxSurge": "25%", "maxUnavailable": "25%"}}.in(strategy)
	}
	if ports, _ := spec["ports"].([]any); kindOf(v).Kind == "Service" {
		for _, p := range ports {
			if port, ok := p.(map[string]any); ok && port["targetPort"] == nil {
				port["targetPort"] = port["port"]
			}
		}
	}
	return out
}

// in returns a copy of an object with what it lacks. What is in it besides is shared
// with the object.
func (f fill) in(object map[string]any) map[string]any {
	out := make(map[string]any, len(object)+len(f))
	for name, value := range object {
		out[name] = value
	}
	for name, with := range f {
		switch have := out[name]; with := with.(type) {
		case fill:
			if object, ok := have.(map[string]any); ok || have == nil {
				out[name] = with.in(object)
			}
		case present:
			if object, ok := have.(map[string]any); ok {
				out[name] = fill(with).in(object)
			}
		case each:
			if list, ok := have.([]any); ok {
				out[name] = with.of(list)
			}
		default:
			if have == nil {
				out[name] = with
			}
		}
	}
	return out
}

func (e each) of(list []any) []any {
	out := make([]any, len(list))
	for i, value := range list {
		out[i] = value
		if object, ok := value.(map[string]any); ok {
			out[i] = fill(e).in(object)
		}
	}
	return out
}
