package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/bightdev/bight/internal/procnet"
)

// OwnNetns is the network namespace that this process is in. To use it takes no
// capability, but those of what is done there. The caller closes it.
func OwnNetns() (*Netns, error) {
	n, err := OpenNetns("/proc/self/ns/net")
	if err != nil {
		return nil, err
	}
	n.own = true
	return n, nil
}

// Beside finds the main process of a container whose processes this one sees, being
// in its PID namespace: process 1, or, where all containers of the pod share theirs,
// the first that runs in the container with this ID.
func (p Proc) Beside(ctx context.Context, container string) (Process, error) {
	_, bare, ok := cutLast(container, "://")
	if !ok {
		bare = container
	}
	command, err := os.ReadFile(filepath.Join(string(p), "1", "cmdline"))
	if err != nil {
		return Process{}, fmt.Errorf("find container %.12s: %w", bare, err)
	}
	if sandbox([]string{string(command)}) < 0 {
		return p.process(bare, 1)
	}
	members, err := p.members(ctx, func(cgroup string) (string, bool) { return bare, inContainer(cgroup, bare) })
	if err != nil {
		return Process{}, fmt.Errorf("find container %.12s: %w", bare, err)
	}
	if len(members[bare]) == 0 {
		return Process{}, fmt.Errorf("find container %.12s: %w", bare, ErrGone)
	}
	return p.process(bare, first(members[bare]).PID)
}

// process is a process by its number.
func (p Proc) process(container string, pid int) (Process, error) {
	text, err := os.ReadFile(filepath.Join(string(p), strconv.Itoa(pid), "stat"))
	if err != nil {
		return Process{}, fmt.Errorf("find container %.12s: %w", container, err)
	}
	s, err := parseStat(string(text))
	if err != nil {
		return Process{}, fmt.Errorf("find container %.12s: %w", container, err)
	}
	return Process{Container: container, PID: pid, Parent: s.Parent, proc: p, started: s.Started}, nil
}

// Gateways returns the addresses of the default routes' gateways: where a node
// replaces the addresses of what it sends to its pods, it is by these.
func (n *Netns) Gateways(ctx context.Context) ([]netip.Addr, error) {
	var all []netip.Addr
	err := n.In(ctx, func() error {
		for name, parse := range map[string]func(string) (netip.Addr, bool){"route": gateway4, "ipv6_route": gateway6} {
			text, err := os.ReadFile("/proc/thread-self/net/" + name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // no IPv6
			}
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(text)) {
				if a, ok := parse(line); ok && !slices.Contains(all, a) {
					all = append(all, a)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("gateways of the network namespace: %w", err)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all, nil
}

// gateway4 reads a line of /proc/net/route.
func gateway4(line string) (netip.Addr, bool) {
	const interfaceDestinationGateway = 3
	f := strings.Fields(line)
	if len(f) < interfaceDestinationGateway || f[1] != "00000000" {
		return netip.Addr{}, false
	}
	at, err := procnet.Address(f[2] + ":0000")
	return at.Addr(), err == nil && at.Addr().IsGlobalUnicast()
}

// gateway6 reads a line of /proc/net/ipv6_route: destination, its prefix, source, its
// prefix, next hop.
func gateway6(line string) (netip.Addr, bool) {
	f := strings.Fields(line)
	if len(f) < 5 || f[1] != "00" {
		return netip.Addr{}, false
	}
	b, err := hex.DecodeString(f[4])
	if err != nil || len(b) != 16 {
		return netip.Addr{}, false
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr, addr.IsGlobalUnicast()
}
