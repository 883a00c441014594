//go:build gateway

package conformance

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	googlegrpc "google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/config"
	"sigs.k8s.io/gateway-api/conformance/utils/grpc"
	"sigs.k8s.io/gateway-api/conformance/utils/roundtripper"

	"github.com/bightdev/bight/internal/kube"
)

// pod is that of an implementation. Its address is dialled through the API server.
type pod struct {
	address string
	dialer  *kube.PodDialer
}

// podOf finds the pod of an implementation.
func (c *court) podOf(name string) *pod {
	c.Helper()
	pods, err := c.typed.CoreV1().Pods(name).List(c.Context(), metav1.ListOptions{LabelSelector: "app=" + name})
	if err != nil {
		c.Fatal(err)
	}
	if len(pods.Items) != 1 || pods.Items[0].Status.PodIP == "" {
		c.Fatalf("%s has %d pods, and one with an address is wanted", name, len(pods.Items))
	}
	return &pod{address: pods.Items[0].Status.PodIP, dialer: kube.NewPodDialer(c.cluster, name, pods.Items[0].Name)}
}

func (p *pod) close() { _ = p.dialer.Close() }

// dial connects to an address that the Gateway has in its status: to no other.
func (p *pod) dial(ctx context.Context, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if host != p.address {
		return nil, fmt.Errorf("dial %s: the Gateway is at %s", address, p.address)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	return p.dialer.Dial(ctx, n)
}

func (p *pod) roundTripper(limits config.TimeoutConfig) roundtripper.RoundTripper {
	return &roundtripper.DefaultRoundTripper{
		TimeoutConfig:     limits,
		CustomDialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return p.dial(ctx, address) },
	}
}

// SendRPC implements grpc.Client: each call has a connection of its own, as that of a
// new client.
func (p *pod) SendRPC(t *testing.T, address string, expected grpc.ExpectedResponse, timeout time.Duration) (*grpc.Response, error) {
	t.Helper()
	conn, err := googlegrpc.NewClient("passthrough:///"+address,
		googlegrpc.WithTransportCredentials(insecure.NewCredentials()), googlegrpc.WithContextDialer(p.dial))
	if err != nil {
		return nil, err
	}
	one := &grpc.DefaultClient{Conn: conn}
	defer one.Close()
	return one.SendRPC(t, address, expected, timeout)
}

// Close implements grpc.Client.
func (p *pod) Close() {}
