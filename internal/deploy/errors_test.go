package deploy

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestMissingRightsAreNamedByKind(t *testing.T) {
	err := &RightsError{User: "ada", Namespace: "shop-ada", Advice: "ask", Missing: []Right{
		{Verb: "get", Resource: "pods"},
		{Verb: "create", Group: "apps", Resource: "deployments"},
		{Verb: "list", Resource: "pods"},
		{Verb: "create", Resource: "pods/portforward"},
	}}
	want := "you (ada) may not get, list pods; create deployments.apps; create pods/portforward in namespace shop-ada: ask"
	if got := err.Error(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestNotReadySaysWhatIsNotAnswered(t *testing.T) {
	unhealthy := []*corev1.Event{{Reason: "Unhealthy", Message: "probe failed: 503"}}
	for ready, want := range map[string]string{
		"":                  "probe failed: 503",
		"tcp:8080":          "nothing answers at :8080",
		"http:8080/healthz": "GET :8080/healthz has no good answer",
		"grpc:50051":        "the gRPC health check at :50051 has not said that it serves",
	} {
		command := []string{"/bight/agent", "run", "--listen", "127.0.0.1:1"}
		if ready != "" {
			command = append(command, "--ready", ready)
		}
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "linkerd-proxy"}, {Name: "cart", Command: append(command, "--", "./cart")}}}}
		pod.Labels = map[string]string{labelName: "cart"}
		if got := notReady(pod, unhealthy); got != want {
			t.Errorf("%s: got %q, want %q", ready, got, want)
		}
	}
}
