package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/bightdev/bight/internal/agent/gate"
	"github.com/bightdev/bight/internal/agent/node"
	"github.com/bightdev/bight/internal/steer"
)

const (
	// portTaken is the exit code that says: try again at another port.
	portTaken = 3
	// firstVisit is how long a gate waits for its laptop, nextVisit for how long after
	// the last session has ended.
	firstVisit, nextVisit = 60 * time.Second, 15 * time.Second
	// look is how often it is seen whether a session is there.
	look = 200 * time.Millisecond
	// closing is how long what is under way may take when a gate closes.
	closing = 3 * time.Second
)

// visit is a gate for one laptop, from inside of the pod: in an ephemeral container.
type visit struct {
	options   gate.Options
	grant     gate.Grant
	nodes     []netip.Addr // addresses of the pod's node
	container string       // its ID

	asked atomic.Bool // the process was asked for
}

func runGate(args []string, stderr io.Writer) int {
	v, code, err := parseGate(args, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "agent gate:", err)
	}
	if v == nil {
		return code
	}
	debug.SetMemoryLimit(64 << 20)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	switch err := v.serve(ctx); {
	case errors.Is(err, syscall.EADDRINUSE):
		fmt.Fprintln(stderr, "agent gate:", err)
		return portTaken
	case err != nil:
		fmt.Fprintln(stderr, "agent gate:", err)
		return failed
	}
	return 0
}

// parseGate reads the flags; without a visit, the code is that to exit with.
func parseGate(args []string, stderr io.Writer) (*visit, int, error) {
	f := flag.NewFlagSet("agent gate", flag.ContinueOnError)
	v := &visit{options: gate.Options{Version: version}}
	o, g := &v.options, &v.grant
	f.StringVar(&o.Service, "service", "", "`name` of what the pod is a part of, for people")
	f.IntVar(&o.Port, "listen", 0, "`port` of the pod's loopback to listen on")
	f.Func("port", "TCP port that can be steered, `PORT[/PROTOCOL]`, may be repeated", func(text string) error {
		p, err := parsePort(text)
		o.Ports = append(o.Ports, p)
		return err
	})
	f.Func("probe", "HTTP path that kubelet asks of a port named before, `PORT=PATH`, may be repeated", func(text string) error {
		return addProbe(o.Ports, text)
	})
	f.Func("silent", "`port` whose probes don't say that they are kubelet's: what comes from --node goes to the app there; may be repeated", func(text string) error {
		p, err := parsePort(text)
		o.ExemptPorts = append(o.ExemptPorts, uint16(p.Number))
		return err
	})
	f.Func("node", "`address` of the node, besides those of the pod's gateways; may be repeated", func(text string) error {
		a, err := netip.ParseAddr(text)
		v.nodes = append(v.nodes, a.Unmap())
		return err
	})
	f.StringVar(&v.container, "container-id", "", "`ID` of the container whose process is meant")
	f.StringVar(&g.Container, "container", "", "its `name`")
	f.StringVar(&g.ID, "id", "", "`name` of what lets the laptop in")
	f.StringVar(&g.Owner, "owner", "", "`name` of who it is")
	f.StringVar(&g.TokenHash, "token-hash", "", "SHA-256 of the token that sessions must have, in `hexadecimal`")
	f.BoolVar(&g.Environment, "environment", false, "let it have the environment, files and network of the process")
	f.Func("rule", "the rule that it may join, as `JSON`", func(text string) error {
		g.Rule = &steer.Rule{}
		return json.Unmarshal([]byte(text), g.Rule)
	})
	if code, ok := parse(f, args, stderr); !ok {
		return nil, code, nil
	}
	if o.Port < 1 || o.Port > 65535 || g.ID == "" || g.Owner == "" || len(g.TokenHash) != 64 {
		return nil, wrongUsage, errors.New("needs --listen PORT, --id, --owner and --token-hash")
	}
	o.Log = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn})).With("from", "bight agent")
	o.Process = v.process
	return v, 0, nil
}

// parsePort reads "8080/http" or "8080".
func parsePort(text string) (gate.Port, error) {
	number, protocol, _ := strings.Cut(text, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 {
		return gate.Port{}, errors.New("want PORT or PORT/PROTOCOL")
	}
	return gate.Port{Number: int(n), Protocol: steer.Protocol(protocol)}, nil
}

// addProbe reads "8080=/healthz".
func addProbe(ports []gate.Port, text string) error {
	number, path, _ := strings.Cut(text, "=")
	i := slices.IndexFunc(ports, func(p gate.Port) bool { return strconv.Itoa(p.Number) == number })
	if i < 0 {
		return errors.New("want PORT=PATH, where PORT is one named with --port before")
	}
	ports[i].Probes = append(ports[i].Probes, path)
	return nil
}

// process finds the main process of the container.
func (v *visit) process(ctx context.Context, name string) (node.Process, error) {
	v.asked.Store(true)
	if os.Getpid() == 1 {
		return node.Process{}, fmt.Errorf("the processes of container %s can't be seen: the container runtime does not know targetContainerName", name)
	}
	process, err := node.Proc("/proc").Beside(ctx, v.container)
	if errors.Is(err, node.ErrGone) {
		err = fmt.Errorf("container %s was started anew: run the command again: %w", name, err)
	}
	return process, err
}

// serve lets the laptop in until it has not come for a while, or ctx ends.
func (v *visit) serve(ctx context.Context) error {
	ns, err := node.OwnNetns()
	if err != nil {
		return err
	}
	defer ns.Close()
	if len(v.options.ExemptPorts) > 0 {
		if v.options.Exempt, err = exempt(ctx, ns, v.nodes); err != nil {
			return err
		}
	}
	g, err := gate.Open(ctx, ns, v.options)
	if err != nil {
		return err
	}
	g.Set([]gate.Grant{v.grant})
	there := func() bool { return v.asked.Swap(false) || g.Sessions(v.grant.ID) > 0 }
	for patience := firstVisit; attend(ctx, patience, there) && ctx.Err() == nil; patience = nextVisit {
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
	defer cancel()
	return g.Close(limited)
}

// attend waits until somebody who was there is not any more, or until nobody has come
// for so long, or until ctx ends.
func attend(ctx context.Context, patience time.Duration, there func() bool) (came bool) {
	tick := time.NewTicker(look)
	defer tick.Stop()
	enough := time.NewTimer(patience)
	defer enough.Stop()
	for {
		over := false
		select {
		case <-tick.C:
		case <-enough.C:
			over = true
		case <-ctx.Done():
			return came
		}
		is := there()
		if !is && (came || over) {
			return came
		}
		came = came || is
	}
}

// exempt are the addresses that kubelet's probes come from, as far as they are known.
func exempt(ctx context.Context, ns *node.Netns, nodes []netip.Addr) ([]netip.Prefix, error) {
	gateways, err := ns.Gateways(ctx)
	if err != nil {
		return nil, err
	}
	var all []netip.Prefix
	for _, a := range append(slices.Clone(nodes), gateways...) {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	return all, nil
}
