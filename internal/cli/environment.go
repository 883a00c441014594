package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/bightdev/bight/internal/bridge/podview"
	"github.com/bightdev/bight/internal/reach"
)

// environment is what the subject's process was given. Where none of a workload's runs,
// it is what the spec of its newest pod says, or that of pods to come.
func (s *subject) environment(ctx context.Context) ([]reach.Variable, error) {
	env, err := s.given(ctx)
	var halted *haltedError
	if !errors.As(err, &halted) {
		return env, err
	}
	client, cerr := s.bridge.Cluster.Typed()
	if cerr != nil {
		return nil, cerr
	}
	pod, what := s.like(halted.pods)
	name, cerr := s.pods.choose(s.container, s.port(nil))
	if cerr != nil {
		return nil, cerr
	}
	i := slices.IndexFunc(pod.Spec.Containers, func(c core.Container) bool { return c.Name == name })
	if i < 0 {
		return nil, err
	}
	env, unknown := podview.Specified(ctx, pod, &pod.Spec.Containers[i], s.source(client))
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	s.bridge.Say(fmt.Sprintf("it %s. These are the variables that the spec of %s gives to container %s: those of its image and of Kubernetes Services are not among them", halted.why, what, name))
	if len(unknown) > 0 {
		s.bridge.Say("left out, since it is not known: " + strings.Join(unknown, "; "))
	}
	return env, nil
}

// given is what the process was given.
func (s *subject) given(ctx context.Context) ([]reach.Variable, error) {
	leave, err := s.admit(ctx, nil, true)
	if err != nil {
		return nil, err
	}
	defer leave()
	pod, err := s.bridge.Environment(ctx, s.name)
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	return pod.Env, nil
}

// like is the newest of some pods or, if there is none, one like those that the workload
// would have, and its name for people.
func (s *subject) like(all []core.Pod) (*core.Pod, string) {
	if len(all) == 0 {
		return &core.Pod{
			ObjectMeta: meta.ObjectMeta{Namespace: s.bridge.Namespace, Annotations: s.pods.annotations}, Spec: core.PodSpec{Containers: s.pods.containers},
		}, s.workload
	}
	newest := slices.MaxFunc(all, func(x, y core.Pod) int { return x.CreationTimestamp.Compare(y.CreationTimestamp.Time) })
	return &newest, "pod " + newest.Name
}

// source reads ConfigMaps and Secrets of the namespace, as this user may.
func (s *subject) source(client kubernetes.Interface) podview.Source {
	cluster, namespace := s.bridge.Cluster, s.bridge.Namespace
	return podview.Source{
		ConfigMap: func(ctx context.Context, name string) (map[string]string, error) {
			o, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, name, meta.GetOptions{})
			if err != nil {
				return nil, cluster.Explain(err)
			}
			return o.Data, nil
		},
		Secret: func(ctx context.Context, name string) (map[string]string, error) {
			o, err := client.CoreV1().Secrets(namespace).Get(ctx, name, meta.GetOptions{})
			if err != nil {
				return nil, cluster.Explain(err)
			}
			data := map[string]string{}
			for k, v := range o.Data {
				data[k] = string(v)
			}
			return data, nil
		},
	}
}
