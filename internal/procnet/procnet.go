// Package procnet reads what the kernel tells of a network namespace in /proc/PID/net of a
// process in it: the tables of TCP sockets, tcp and tcp6. See proc(5).
package procnet

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// The states of sockets that are asked for.
const (
	established = "01"
	listens     = "0A"
)

// Listening returns the addresses that are listened on, in order, each once. IPv4 in IPv6
// stays that.
func Listening(table string) ([]netip.AddrPort, error) {
	var all []netip.AddrPort
	for f := range sockets(table, listens) {
		a, err := Address(f[1])
		if err != nil {
			return nil, err
		}
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return all, nil
}

// Socket is a TCP connection, seen from inside. IPv4 in IPv6 is IPv4.
type Socket struct {
	Local, Remote netip.AddrPort
	Inode         uint64 // of the socket, 0 before somebody has accepted it
}

// Established returns the connections that are established.
func Established(table string) ([]Socket, error) {
	var all []Socket
	for f := range sockets(table, established) {
		if len(f) < 10 {
			return nil, fmt.Errorf("line %.200q of the kernel's connections is not understood", f)
		}
		local, err1 := Address(f[1])
		remote, err2 := Address(f[2])
		inode, err3 := strconv.ParseUint(f[9], 10, 64)
		if err := errors.Join(err1, err2, err3); err != nil {
			return nil, fmt.Errorf("line %.200q of the kernel's connections: %w", f, err)
		}
		all = append(all, Socket{unmapped(local), unmapped(remote), inode})
	}
	return all, nil
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// sockets yields the fields of each socket in a state, of which there are four at least.
func sockets(table, state string) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		_, lines, _ := strings.Cut(table, "\n") // without the head
		for line := range strings.Lines(lines) {
			if f := strings.Fields(line); len(f) >= 4 && f[3] == state && !yield(f) {
				return
			}
		}
	}
}

// Address reads "0100007F:1F90": words of four bytes, each as the processor has it, which
// is little endian wherever we run.
func Address(s string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	n, perr := strconv.ParseUint(port, 16, 16)
	if err != nil || perr != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, fmt.Errorf("address %.80q of the kernel is not understood", s)
	}
	for i := 0; i < len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr, uint16(n)), nil
}
