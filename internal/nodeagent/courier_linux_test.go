package nodeagent

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	core "k8s.io/api/core/v1"

	"github.com/bightdev/bight/internal/release/spec"
)

// A connection towards a controller that has just ended is given up soon, so that the next one leads to another.
func TestAConnectionToAControllerThatIsNoMoreIsGivenUp(t *testing.T) {
	// Nobody accepts there, and no more connections fit: what begins one has no answer.
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*syscall.SockaddrInet4).Port}
	for {
		conn, err := net.DialTimeout("tcp", at.String(), 100*time.Millisecond)
		if err != nil {
			break
		}
		defer conn.Close()
	}
	c := newCourier(func(context.Context) (*core.Service, error) {
		return &core.Service{Spec: core.ServiceSpec{ClusterIP: "127.0.0.1", Ports: []core.ServicePort{{Port: int32(at.Port)}}}}, nil
	})
	c.token = func() (string, error) { return "secret", nil }
	err = c.send(t.Context(), &spec.Batch{Namespace: "shop", Release: "r", Seq: 1})
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "dial" || !op.Timeout() {
		t.Errorf("got %v, and not that it was too long until there was a connection", err)
	}
}
