package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"syscall"
)

const (
	socksVersion = 5
	authVersion  = 1

	methodNone     = 0
	methodPassword = 2
	methodNoneFits = 0xff

	commandConnect = 1

	addressIPv4 = 1
	addressName = 3
	addressIPv6 = 4

	replyDone        = 0
	replyFailed      = 1
	replyNetwork     = 3
	replyHost        = 4
	replyRefused     = 5
	replyExpired     = 6
	replyNoCommand   = 7
	replyNoAddress   = 8
	anyAddressLength = 4
)

// replyError is a SOCKS5 reply that says no.
type replyError byte

// Error implements error.
func (e replyError) Error() string {
	switch byte(e) {
	case replyNoCommand:
		return "the command is not CONNECT"
	case replyNoAddress:
		return "the type of the address is unknown"
	default:
		return "SOCKS reply " + strconv.Itoa(int(e))
	}
}

var errMalformed = errors.New("not SOCKS5")

// greet speaks with a client until it has said where it wants to go.
func greet(conn io.ReadWriter) (address string, err error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(conn, head); err != nil {
		return "", err
	}
	if head[0] != socksVersion {
		return "", errMalformed
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(conn, methods); err != nil {
		return "", err
	}
	method := choose(methods)
	if _, err := conn.Write([]byte{socksVersion, method}); err != nil {
		return "", err
	}
	switch method {
	case methodNoneFits:
		return "", errors.New("the client wants an authentication that there is not")
	case methodPassword:
		if err := skipPassword(conn); err != nil {
			return "", err
		}
	}
	return request(conn)
}

func choose(methods []byte) byte {
	method := byte(methodNoneFits)
	for _, m := range methods {
		switch m {
		case methodNone:
			return methodNone
		case methodPassword:
			method = methodPassword
		}
	}
	return method
}

// skipPassword takes any name and password.
func skipPassword(conn io.ReadWriter) error {
	version := make([]byte, 1)
	if _, err := io.ReadFull(conn, version); err != nil {
		return err
	}
	if version[0] != authVersion {
		return errMalformed
	}
	for range 2 {
		if _, err := readCounted(conn); err != nil {
			return err
		}
	}
	_, err := conn.Write([]byte{authVersion, 0})
	return err
}

func readCounted(r io.Reader) ([]byte, error) {
	n := make([]byte, 1)
	if _, err := io.ReadFull(r, n); err != nil {
		return nil, err
	}
	b := make([]byte, n[0])
	_, err := io.ReadFull(r, b)
	return b, err
}

// request reads where the client wants to go.
func request(r io.Reader) (string, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(r, head); err != nil {
		return "", err
	}
	if head[0] != socksVersion {
		return "", errMalformed
	}
	var host string
	switch head[3] {
	case addressName:
		name, err := readCounted(r)
		if err != nil {
			return "", err
		}
		if host = string(name); !isHost(host) {
			return "", fmt.Errorf("%w: %q is no host", errMalformed, host)
		}
	case addressIPv4, addressIPv6:
		ip := make([]byte, map[byte]int{addressIPv4: 4, addressIPv6: 16}[head[3]])
		if _, err := io.ReadFull(r, ip); err != nil {
			return "", err
		}
		a, _ := netip.AddrFromSlice(ip)
		host = a.Unmap().String()
	default:
		return "", replyError(replyNoAddress)
	}
	port := make([]byte, 2)
	if _, err := io.ReadFull(r, port); err != nil {
		return "", err
	}
	if head[1] != commandConnect {
		return "", replyError(replyNoCommand)
	}
	return net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(port)))), nil
}

// isHost says whether a name can be one of a host: something printable that would
// not mean anything else in an address.
func isHost(name string) bool {
	for _, c := range []byte(name) {
		if c <= ' ' || c >= 0x7f || c == '/' || c == '[' || c == ']' || c == '"' || c == '\\' || c == '@' {
			return false
		}
	}
	return name != ""
}

// reply is a SOCKS5 reply; the bound address, which nobody uses, is 0.0.0.0:0.
func reply(code byte) []byte {
	return append([]byte{socksVersion, code, 0, addressIPv4}, make([]byte, anyAddressLength+2)...)
}

// replyFor tells the client why a dial did not succeed.
func replyFor(err error) byte {
	var dns *net.DNSError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return replyRefused
	case errors.As(err, &dns) && dns.IsNotFound, errors.Is(err, syscall.EHOSTUNREACH):
		return replyHost
	case errors.Is(err, syscall.ENETUNREACH):
		return replyNetwork
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return replyExpired
	default:
		return replyFailed
	}
}
