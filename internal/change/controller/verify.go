package controller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change/attest"
	"github.com/bightdev/bight/internal/kube"
)

// verifier looks at images before they are deployed, each once. It is safe for
// concurrent use.
type verifier struct {
	registry func(context.Context) (*kube.Registry, error)

	mu    sync.Mutex
	known map[string]bool // image, keys and builders
}

// maxKnown is how many images are remembered.
const maxKnown = 4096

// verify returns nil if all images are such as the policy wants them, an
// [attest.Rejection] of the first that is not, and any other error if one could not be
// looked at. What is attached to an image stays: signatures don't become worse.
func (v *verifier) verify(ctx context.Context, policy *v1alpha1.Verification, images map[string]string) error {
	if policy == nil {
		return nil
	}
	want := attest.Policy{Builders: policy.Builders}
	for i, text := range policy.Keys {
		key, err := attest.ParsePublicKey([]byte(text))
		if err != nil {
			return fmt.Errorf("the App's policy.verify.keys[%d]: %w", i, err)
		}
		want.Keys = append(want.Keys, key)
	}
	announced, err := v.registry(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for service, ref := range images {
		key := strings.Join(append(append([]string{ref}, policy.Keys...), policy.Builders...), "\x00")
		if v.knows(key) {
			continue
		}
		g.Go(func() error {
			if err := one(ctx, announced, ref, want); err != nil {
				return fmt.Errorf("service %s: %w", service, err)
			}
			v.learn(key)
			return nil
		})
	}
	return g.Wait()
}

func one(ctx context.Context, announced *kube.Registry, ref string, want attest.Policy) error {
	near, plain, err := fromPod(ref, announced)
	if err != nil {
		return err
	}
	_, err = (&attest.Client{Insecure: plain}).Verify(ctx, near, want)
	return err
}

// fromPod is what an image is called by a pod, where nodes have a name of their own
// for its registry, and whether that registry speaks plain HTTP.
func fromPod(ref string, announced *kube.Registry) (near string, plain bool, err error) {
	host, _, _ := strings.Cut(ref, "/")
	if announced != nil {
		for _, name := range []string{announced.HostFromContainerRuntime, announced.Host} {
			rest, is := strings.CutPrefix(ref, name+"/")
			if name == "" || !is {
				continue
			}
			if announced.HostFromClusterNetwork != "" {
				return announced.HostFromClusterNetwork + "/" + rest, true, nil
			}
			break
		}
	}
	if !loopback(host) {
		return ref, false, nil
	}
	return "", false, fmt.Errorf("look at image %s: %s is each node's own address, and nobody says at which one pods reach that registry: "+
		"add hostFromClusterNetwork to ConfigMap kube-public/local-registry-hosting, and bight change retry", ref, host)
}

func loopback(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	ip := net.ParseIP(strings.Trim(name, "[]"))
	return name == "localhost" || ip != nil && ip.IsLoopback()
}

func (v *verifier) knows(key string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.known[key]
}

func (v *verifier) learn(key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.known == nil || len(v.known) >= maxKnown {
		v.known = map[string]bool{}
	}
	v.known[key] = true
}

// verified checks a run's images by the app's policy. It returns nil, or how the step
// ends that was to deploy them.
func (c *Controller) verified(ctx context.Context, a *v1alpha1.App, run v1alpha1.Run) *v1alpha1.Step {
	err := c.images.verify(ctx, a.Spec.Policy.Verify, run.Images)
	if err == nil {
		return nil
	}
	var rejected *attest.Rejection
	step := erred(fmt.Errorf("verify the images: %w", err))
	if errors.As(err, &rejected) {
		step = refused("%s", err)
	}
	return &step
}
