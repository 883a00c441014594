// Package egress is a cluster's way out: a NAT in this process, without any
// change to the machine's network or firewall. Packets come from a TAP device in
// the cluster; connections to where they go are made by this process, in the
// network namespace of its threads. The main type is [Gateway].
package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"github.com/containers/gvisor-tap-vsock/pkg/virtualnetwork"
)

// MTU is the length of the packets on the TAP device, which is that of the pods'
// own interfaces.
const MTU = 1500

// gatewayMAC is ours in every cluster: nobody else is on the link.
const gatewayMAC = "5a:94:ef:e4:0c:dd"

// Config is what the gateway is on its link.
type Config struct {
	Network  string // a CIDR
	Address  string // of the gateway, which answers for names too
	Host     string // the address that stands for this machine's 127.0.0.1
	HostName string // its name, with at least one dot
}

// Gateway is a way out. Its connections are independent of each other; Serve may
// be called once.
type Gateway struct {
	network *virtualnetwork.VirtualNetwork
}

// New makes a gateway.
func New(c Config) (*Gateway, error) {
	zone, err := c.zone()
	if err != nil {
		return nil, err
	}
	network, err := virtualnetwork.New(&types.Configuration{
		MTU:               MTU,
		Subnet:            c.Network,
		GatewayIP:         c.Address,
		GatewayMacAddress: gatewayMAC,
		GatewayVirtualIPs: []string{c.Host},
		NAT:               map[string]string{c.Host: "127.0.0.1"},
		DNS:               []types.Zone{zone},
	})
	if err != nil {
		return nil, fmt.Errorf("make the way out: %w", err)
	}
	return &Gateway{network}, nil
}

// zone returns the names that the gateway itself knows.
func (c Config) zone() (types.Zone, error) {
	for i, r := range c.HostName {
		if r == '.' && i > 0 && i < len(c.HostName)-1 {
			return types.Zone{
				Name:    c.HostName[i+1:] + ".",
				Records: []types.Record{{Name: c.HostName[:i], IP: net.ParseIP(c.Host)}},
			}, nil
		}
	}
	return types.Zone{}, fmt.Errorf("make the way out: the host's name %q has no domain", c.HostName)
}

// Serve carries the Ethernet frames of a TAP device until ctx ends, and closes it.
func (g *Gateway) Serve(ctx context.Context, tap *os.File) error {
	stop := context.AfterFunc(ctx, func() { tap.Close() })
	defer stop()
	err := g.network.AcceptBess(ctx, frames{tap})
	if ctx.Err() != nil {
		return nil
	}
	if errors.Is(err, io.EOF) || err == nil {
		err = errors.New("the device has gone")
	}
	return fmt.Errorf("carry packets out: %w", err)
}

// frames is a TAP device as a connection: each read and each write is one frame.
type frames struct{ *os.File }

func (f frames) LocalAddr() net.Addr  { return device(f.Name()) }
func (f frames) RemoteAddr() net.Addr { return device(f.Name()) }

type device string

func (device) Network() string  { return "tap" }
func (d device) String() string { return string(d) }
