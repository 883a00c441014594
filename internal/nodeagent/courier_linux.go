package nodeagent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release/spec"
)

const (
	// controller is the Service of the controller.
	controller = "bight-controller"
	// account is where a pod has what its service account is known by.
	account = "/var/run/secrets/kubernetes.io/serviceaccount/"
	// delivery is how long the controller may take to answer.
	delivery = 5 * time.Second
	// connecting is how long it may take to be connected, which is up to the kernels: one that begins towards
	// a controller that has just ended has no answer ever, and the next one leads to another.
	connecting = time.Second
)

// errUnjudged says that the controller does not judge the release, or not any more.
var errUnjudged = errors.New("the release is not judged")

// courier brings batches to the controller. It may be used by several goroutines.
type courier struct {
	client *http.Client
	// service reads the controller's Service.
	service func(context.Context) (*core.Service, error)
	token   func() (string, error)

	mu sync.Mutex
	at string // the controller's address, "" if it is not known
}

func newCourier(service func(context.Context) (*core.Service, error)) *courier {
	return &courier{
		service: service,
		token: func() (string, error) {
			b, err := os.ReadFile(filepath.Join(v1alpha1.EvidenceTokens, "token")) // which kubelet renews
			return strings.TrimSpace(string(b)), err
		},
		client: &http.Client{
			Transport: &http.Transport{
				DialContext:     (&net.Dialer{Timeout: connecting}).DialContext,
				IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 4,
			},
			// The token is the controller's to see.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// send brings a batch to the controller. After errUnjudged it is of no use; after any
// other error it has to be sent again.
func (c *courier) send(ctx context.Context, b *spec.Batch) error {
	ctx, cancel := context.WithTimeout(ctx, delivery)
	defer cancel()
	return c.bring(ctx, spec.EvidencePath, b, "what was counted of Release "+b.Namespace+"/"+b.Release)
}

// sendPairs brings requests and their answers, as send does.
func (c *courier) sendPairs(ctx context.Context, p *spec.Pairs) error {
	ctx, cancel := context.WithTimeout(ctx, 6*delivery)
	defer cancel()
	return c.bring(ctx, spec.PairsPath, p, "the evidence of Release "+p.Namespace+"/"+p.Release)
}

func isUnjudged(err error) bool { return errors.Is(err, errUnjudged) }

func (c *courier) bring(ctx context.Context, path string, what any, name string) error {
	err := c.post(ctx, path, what)
	if err != nil && !errors.Is(err, errUnjudged) {
		c.mu.Lock()
		c.at = "" // it may be another by now
		c.mu.Unlock()
		return fmt.Errorf("bring %s to the controller: %w", name, err)
	}
	return err
}

func (c *courier) post(ctx context.Context, path string, what any) error {
	at, err := c.address(ctx)
	if err != nil {
		return err
	}
	token, err := c.token()
	if err != nil {
		return fmt.Errorf("read the token that the controller knows this agent by: %w", err)
	}
	body, err := json.Marshal(what)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+at+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	resp, err := c.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	why, _ := io.ReadAll(io.LimitReader(resp.Body, 512)) // the status says enough
	switch resp.StatusCode {
	case http.StatusNoContent:
		return nil
	case http.StatusNotFound:
		return errUnjudged
	}
	return fmt.Errorf("it answers %s: %s", resp.Status, strings.TrimSpace(string(why)))
}

// address is that of the controller's Service. The Service is asked for, not its name,
// since the agent may have no nameserver that knows it.
func (c *courier) address(ctx context.Context) (string, error) {
	c.mu.Lock()
	at := c.at
	c.mu.Unlock()
	if at != "" {
		return at, nil
	}
	s, err := c.service(ctx)
	switch {
	case err != nil:
		return "", fmt.Errorf("find Service %s: %w", controller, err)
	case s.Spec.ClusterIP == "" || s.Spec.ClusterIP == core.ClusterIPNone || len(s.Spec.Ports) == 0:
		return "", fmt.Errorf("service %s has no address of its own: run bight install again", controller)
	}
	at = net.JoinHostPort(s.Spec.ClusterIP, strconv.Itoa(int(s.Spec.Ports[0].Port)))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = at
	return at, nil
}
