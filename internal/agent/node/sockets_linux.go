package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Socket is a TCP connection of a network namespace, seen from inside.
type Socket struct {
	Local, Remote netip.AddrPort
	Inode         uint64 // of the socket, 0 before somebody has accepted it
}

// Established returns the TCP connections of the namespace that are established.
func (n *Netns) Established(ctx context.Context) ([]Socket, error) {
	var all []Socket
	err := n.In(ctx, func() error {
		for _, name := range []string{"tcp", "tcp6"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // no IPv6
			}
			if err != nil {
				return err
			}
			some, err := parseEstablished(string(text))
			if err != nil {
				return err
			}
			all = append(all, some...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("connections of the network namespace: %w", err)
	}
	return all, nil
}

// parseEstablished reads /proc/net/tcp or tcp6.
func parseEstablished(text string) ([]Socket, error) {
	const established = "01"
	var all []Socket
	head := true
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if head || len(f) < 4 || f[3] != established {
			head = false
			continue
		}
		if len(f) < 10 {
			return nil, fmt.Errorf("line %.200q of the kernel's connections is not understood", line)
		}
		local, err1 := parseAddress(f[1])
		remote, err2 := parseAddress(f[2])
		inode, err3 := strconv.ParseUint(f[9], 10, 64)
		if err := errors.Join(err1, err2, err3); err != nil {
			return nil, fmt.Errorf("line %.200q of the kernel's connections: %w", line, err)
		}
		all = append(all, Socket{local, remote, inode})
	}
	return all, nil
}

// parseAddress reads "0100007F:1F90": words of four bytes, each as the processor has
// it, which is little endian wherever we run. IPv4 in IPv6 is IPv4.
func parseAddress(s string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	n, perr := strconv.ParseUint(port, 16, 16)
	if err != nil || perr != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, fmt.Errorf("address %.80q is not understood", s)
	}
	for i := 0; i < len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), nil
}
