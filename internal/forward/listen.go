package forward

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
)

// wsaInUse and wsaAccess are Windows' own numbers for the two ways in which a
// port is not to be had; no other system uses them.
const (
	wsaInUse  = syscall.Errno(10048)
	wsaAccess = syscall.Errno(10013)
)

// loopback is a port on both loopback addresses: browsers try ::1 first for
// localhost, many other programs know 127.0.0.1 only.
type loopback struct {
	port      int
	listeners []net.Listener
}

// listenLoopback listens on a port, or with 0 on any that both families have
// free. A machine without IPv6 is served on IPv4 alone.
func listenLoopback(port int) (*loopback, error) {
	for try := 0; ; try++ {
		v4, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return nil, err
		}
		l := &loopback{port: v4.Addr().(*net.TCPAddr).Port, listeners: []net.Listener{v4}}
		v6, err := net.Listen("tcp6", net.JoinHostPort("::1", strconv.Itoa(l.port)))
		switch {
		case err == nil:
			l.listeners = append(l.listeners, v6)
			return l, nil
		case !taken(err):
			return l, nil
		}
		l.close()
		if port != 0 || try == 20 {
			return nil, err
		}
	}
}

func (l *loopback) close() {
	for _, ln := range l.listeners {
		_ = ln.Close()
	}
}

// loopbackPort returns the port of an address that must be on loopback.
func loopbackPort(address string) (int, error) {
	if address == "" {
		return 0, nil
	}
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return 0, fmt.Errorf("listen on %q: %w", address, err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("listen on %q: %q is not a port: use a number from 0 to 65535", address, text)
	}
	if ip := net.ParseIP(host); host != "" && !strings.EqualFold(host, "localhost") && (ip == nil || !ip.IsLoopback()) {
		return 0, fmt.Errorf("listen on %q: services under development are served to this machine alone: use 127.0.0.1:%d", address, port)
	}
	return int(port), nil
}

func taken(err error) bool {
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, wsaInUse)
}

// inWords says why a port is not to be had.
func inWords(err error) string {
	switch {
	case taken(err):
		return "already in use on this machine"
	case errors.Is(err, syscall.EACCES), errors.Is(err, wsaAccess):
		return "reserved to the administrator of this machine"
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return "not available (" + errno.Error() + ")"
	}
	return "not available (" + err.Error() + ")"
}

func portError(port int, err error) error {
	if port == 0 {
		return fmt.Errorf("find a free port on 127.0.0.1: %w", err)
	}
	return fmt.Errorf("port %d is %s: stop what listens there, or name another with --port (0 takes any that is free): %w", port, inWords(err), err)
}
