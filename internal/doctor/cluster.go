package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/kube"
)

func (d *Doctor) cluster(ctx context.Context) Check {
	c := Check{Name: "cluster", Status: OK}
	if d.ClusterErr != nil {
		return d.noCluster()
	}
	discovery, err := d.Cluster.Discovery()
	if err != nil {
		return d.broken("cluster", err)
	}
	began := time.Now()
	body, err := discovery.RESTClient().Get().AbsPath("/version").Do(ctx).Raw()
	if err != nil {
		return d.broken("cluster", err)
	}
	c.Detail = fmt.Sprintf("context %s, Kubernetes %s, answers in %d ms", d.Cluster.Context, gitVersion(body), time.Since(began).Milliseconds())
	return c
}

// noCluster tells apart that there is none, which bight up heals by itself, and
// that the one there is may not be used.
func (d *Doctor) noCluster() Check {
	var none *kube.ConfigError
	if errors.As(d.ClusterErr, &none) && none.None {
		return Check{Name: "cluster", Status: Warn, Detail: "the kubeconfig names none", Next: "bight up starts the embedded one; bight cluster start does it now"}
	}
	return Check{Name: "cluster", Status: Fail, Detail: d.ClusterErr.Error(), Next: "choose another with --context"}
}

// broken says that a request failed. What an explained error advises is part of
// its text.
func (d *Doctor) broken(name string, err error) Check {
	if errors.Is(err, context.DeadlineExceeded) {
		return Check{Name: name, Status: Fail, Detail: fmt.Sprintf("no answer within %s", limit), Next: "see that the cluster runs and that this machine is on its network"}
	}
	what, next, _ := strings.Cut(d.Cluster.Explain(err).Error(), "; ")
	return Check{Name: name, Status: Fail, Detail: what, Next: next}
}

// skipped is a check that waits for another.
func skipped(name, why string) Check {
	return Check{Name: name, Status: Warn, Detail: "not looked at: " + why}
}

func (d *Doctor) rights(ctx context.Context) Check {
	const name = "rights"
	switch {
	case d.Cluster == nil || d.ClusterErr != nil:
		return skipped(name, "there is no cluster to ask")
	case d.Namespace == "":
		return skipped(name, "without an app there is no namespace to ask about; name one with -n")
	}
	client, err := d.Cluster.Typed()
	if err != nil {
		return d.broken(name, err)
	}
	applier := &deploy.Applier{Client: client}
	err = applier.Preflight(ctx, d.Namespace, nil, deploy.SessionRights()...)
	var lacking *deploy.RightsError
	switch {
	case errors.As(err, &lacking):
		what, next, _ := strings.Cut(lacking.Error(), ": ")
		return Check{Name: name, Status: Fail, Detail: what, Next: next}
	case err != nil:
		return d.broken(name, err)
	}
	return Check{Name: name, Status: OK, Detail: "you may deploy to namespace " + d.Namespace}
}

func (d *Doctor) registry(ctx context.Context) Check {
	const name = "registry"
	registry := image.Registry{Push: d.Registry}
	if d.Registry == "" {
		if d.Cluster == nil || d.ClusterErr != nil {
			return skipped(name, "there is no cluster to ask for one")
		}
		announced, err := d.Cluster.LocalRegistry(ctx)
		if err != nil {
			return d.broken(name, err)
		}
		if announced == nil || announced.Host == "" {
			return Check{Name: name, Status: Fail, Detail: fmt.Sprintf("context %q announces none (ConfigMap kube-public/local-registry-hosting)", d.Cluster.Context), Next: "name one with --registry HOST/PATH"}
		}
		registry.Push = announced.Host
	}
	if err := image.Reachable(ctx, registry, http.DefaultTransport); err != nil {
		c := Check{Name: name, Status: Fail, Detail: err.Error()}
		var known *image.RegistryError
		if errors.As(err, &known) {
			c.Detail, c.Next = fmt.Sprintf("%s: %v", known.Registry, known.Err), known.Advice
		}
		return c
	}
	return Check{Name: name, Status: OK, Detail: registry.Push + " answers"}
}

// gitVersion reads the version out of an API server's answer.
func gitVersion(body []byte) string {
	_, rest, _ := strings.Cut(string(body), `"gitVersion": "`)
	version, _, ok := strings.Cut(rest, `"`)
	if !ok {
		return "of an unknown version"
	}
	return version
}
