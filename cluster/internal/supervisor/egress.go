package supervisor

import (
	"context"
	"fmt"
	"os/exec"
	"strings"

	"github.com/bightdev/bight/cluster/internal/egress"
	"github.com/bightdev/bight/cluster/internal/spec"
)

// uplink is the TAP device in node 1 that leads out.
const uplink = "out0"

// masquerade gives what leaves through the uplink the address of node 1: the
// gateway knows no other. kube-proxy has tables of its own beside this one.
const masquerade = `table ip bight {
	chain out {
		type nat hook postrouting priority srcnat;
		oifname "` + uplink + `" masquerade
	}
}
`

// openEgress makes the way out and keeps it until ctx ends. Connections are made from this process, whose threads are in the
// machine's own network namespace.
func (s *Supervisor) openEgress(ctx context.Context) error {
	first := s.nodes[0]
	tap, err := first.ns.Tap(uplink, spec.EgressNode, egress.MTU)
	if err != nil {
		return fmt.Errorf("make the way out: %w; it needs /dev/net/tun (modprobe tun), or do without --egress", err)
	}
	gateway, err := egress.New(egress.Config{
		Network: spec.EgressNetwork, Address: spec.EgressGateway,
		Host: spec.EgressHost, HostName: spec.EgressHostName,
	})
	if err != nil {
		tap.Close()
		return err
	}
	s.work.Go(func() {
		if err := gateway.Serve(ctx, tap); err != nil {
			s.Log.Error("pods have no way out any more; start the cluster again", "error", err)
		}
	})
	if err := s.nft(first, masquerade); err != nil {
		return fmt.Errorf("masquerade what leaves through %s: %w", uplink, err)
	}
	return first.ns.Route("", spec.EgressGateway)
}

// runIn runs a command in a node's network namespace to its end.
func (s *Supervisor) runIn(n node, cmd *exec.Cmd) (string, error) {
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := s.processes.call(cmd, n.ns)
	return out.String(), err
}
