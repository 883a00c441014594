package control

import (
	"context"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/bightdev/bight/internal/release/config"
	"github.com/bightdev/bight/internal/release/evidence"
)

// fieldsOf is a template as JSON has it.
func fieldsOf(t *corev1.PodTemplateSpec) map[string]any {
	out, err := runtime.DefaultUnstructuredConverter.ToUnstructured(t)
	if err != nil {
		panic(err) // a type of the API
	}
	return out
}

// configDiffers says what differs between the configuration of two versions, a line each:
// of ConfigMaps the lines, without what the rules hide; of Secrets, and where these keep no
// bodies, only the keys.
func (c *Controller) configDiffers(ctx context.Context, namespace string, stable, canary *appsv1.ReplicaSet, hide *evidence.Rules) (out []string) {
	was := map[config.Ref]string{} // by what it is a version of
	for _, r := range config.Refs(fieldsOf(&stable.Spec.Template)) {
		was[config.Ref{Kind: r.Kind, Name: baseOf(r.Name)}] = r.Name
	}
	for _, r := range config.Refs(fieldsOf(&canary.Spec.Template)) {
		old, has := was[config.Ref{Kind: r.Kind, Name: baseOf(r.Name)}]
		if !has || old == r.Name {
			continue
		}
		before, err := c.content(ctx, namespace, config.Ref{Kind: r.Kind, Name: old})
		now, wrong := c.content(ctx, namespace, r)
		var lines []string
		switch {
		case err != nil || wrong != nil: // it is known from the template that it differs
		case r.Kind == config.Secret || hide.NoBodies:
			lines = config.DiffersSecretly(before, now)
		default:
			lines = config.Differs(before, now, func(line string) string { return hideLine(hide, line) })
		}
		for _, l := range lines {
			out = append(out, r.Kind+" "+baseOf(r.Name)+": "+l)
		}
	}
	return out
}

// baseOf is what an object is a version of, or its own name.
func baseOf(name string) string {
	if base := config.Base(name); base != "" {
		return base
	}
	return name
}

// hideLine takes out of a line of a configuration what is secret by its name or its looks.
func hideLine(rules *evidence.Rules, line string) string {
	i := strings.IndexAny(line, ":=")
	if i > 0 && strings.TrimSpace(line[i+1:]) != "" && rules.Secret(strings.Trim(line[:i], " \t\"'-")) {
		return line[:i+1] + " " + evidence.Hidden
	}
	return evidence.Text(line)
}

// content is what is in a ConfigMap or a Secret.
func (c *Controller) content(ctx context.Context, namespace string, r config.Ref) (config.Content, error) {
	if r.Kind == config.Secret {
		s, err := c.typed.CoreV1().Secrets(namespace).Get(ctx, r.Name, metav1.GetOptions{})
		if err != nil {
			return config.Content{}, err
		}
		return config.Content{Binary: s.Data}, nil
	}
	m, err := c.typed.CoreV1().ConfigMaps(namespace).Get(ctx, r.Name, metav1.GetOptions{})
	if err != nil {
		return config.Content{}, err
	}
	return config.Content{Text: m.Data, Binary: m.BinaryData}, nil
}
