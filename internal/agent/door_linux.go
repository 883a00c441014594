package agent

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/bightdev/bight/internal/probe"
	"github.com/bightdev/bight/internal/steer"
)

// Door is a listener in front of a port of the process: what the Kubernetes Service
// leads to, so that requests can be steered without anything being changed.
type Door struct {
	Listener net.Listener
	At       int // where it listens
	Port     int // the process's
	Protocol steer.Protocol
}

// ParseDoor reads "24460=8080/http" (LISTEN=PORT/PROTOCOL) and listens.
func ParseDoor(text string) (Door, error) {
	wrong := func() (Door, error) {
		return Door{}, fmt.Errorf("--door %q: want LISTEN=PORT/PROTOCOL, such as 24460=8080/http", text)
	}
	at, rest, ok := strings.Cut(text, "=")
	port, protocol, _ := strings.Cut(rest, "/")
	d := Door{Protocol: steer.Protocol(protocol)}
	var err error
	if d.At, err = strconv.Atoi(at); err != nil || !ok || d.At < 1 || d.At > 65535 {
		return wrong()
	}
	if d.Port, err = strconv.Atoi(port); err != nil || d.Port < 1 || d.Port > 65535 {
		return wrong()
	}
	switch d.Protocol {
	case "", steer.HTTP, steer.GRPC, steer.TCP:
	default:
		return wrong()
	}
	if d.Listener, err = net.Listen("tcp", ":"+strconv.Itoa(d.At)); err != nil {
		return Door{}, fmt.Errorf("--door %q: %w", text, err)
	}
	return d, nil
}

// steering returns what steers requests for the process's ports.
func (a *Agent) steering() *steer.Host {
	h := &steer.Host{Service: a.Name, Process: a.sup, Log: a.Log}
	for _, d := range a.Doors {
		// It has no Probes: whether the process can serve is asked past the door, and who
		// asks for that path here is a client like any other. It may be the first page.
		h.Doors = append(h.Doors, &steer.Door{
			Port: d.Port, Protocol: d.Protocol, Follow: d.Protocol != steer.TCP, Log: a.Log,
			App: func(ctx context.Context) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
				defer cancel()
				return a.dialProcess(ctx, d.Port)
			},
		})
	}
	return h
}

// dialPause is between two attempts to connect to a process that is being started.
const dialPause = 20 * time.Millisecond

// dialProcess connects to a port of the process, and waits for one that is being
// started.
func (a *Agent) dialProcess(ctx context.Context, port int) (net.Conn, error) {
	for {
		soon, heldBy, ready := a.sup.comes()
		conn, err := probe.Dial(ctx, a.hosts, port)
		switch {
		case err == nil || ctx.Err() != nil:
			return conn, err
		case heldBy != "":
			return nil, fmt.Errorf("the process is stopped while %s replaces it: %w", heldBy, err)
		case !soon:
			return nil, err
		}
		again := time.NewTimer(dialPause) // it may listen here before it is ready
		select {
		case <-ready:
			again.Stop()
			return probe.Dial(ctx, a.hosts, port)
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return nil, err
		}
	}
}

// steered returns where to connect to for a port of the process: its door, also while
// there are no rules, since connections outlive that.
func (a *Agent) steered(port string) string {
	for _, d := range a.Doors {
		if strconv.Itoa(d.Port) == port {
			return strconv.Itoa(d.At)
		}
	}
	return port
}
