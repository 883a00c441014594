package reach

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/bightdev/bight/internal/stream"
)

// Opener opens streams to an agent. A *stream.Session is one.
type Opener interface {
	Open(ctx context.Context, header []byte) (*stream.Stream, error)
}

// Headers of streams.
const (
	headerTCP   = "tcp:"
	headerUDP   = "udp:"
	headerDNS   = "dns"
	headerPod   = "pod"
	headerFiles = "files:"
)

const (
	// codeReset is the code of a stream whose TCP connection was reset.
	codeReset = stream.CodeUser + 1
	// codeForbidden is that of a stream whose opener may not have what it asks for.
	codeForbidden = stream.CodeUser + 2
)

// status is how a request to connect went.
type status byte

const (
	statusOK         status = 0
	statusOther      status = 1
	statusRefused    status = 2
	statusTimeout    status = 3
	statusHost       status = 4 // no route to the host
	statusNetwork    status = 5 // no route to its network
	statusNoSuchHost status = 6
	statusForbidden  status = 7
	statusBusy       status = 8 // the agent carries as many flows as it may
	statusNameserver status = 9 // the name may exist: nobody could tell

	maxStatusText = 1 << 10
)

// errno is the error of the operating system that s stands for, 0 for none.
func (s status) errno() syscall.Errno {
	switch s {
	case statusRefused:
		return syscall.ECONNREFUSED
	case statusTimeout:
		return syscall.ETIMEDOUT
	case statusHost:
		return syscall.EHOSTUNREACH
	case statusNetwork:
		return syscall.ENETUNREACH
	case statusForbidden:
		return syscall.EACCES
	case statusBusy:
		return syscall.EAGAIN
	}
	return 0
}

var errBusy = errors.New("the agent carries as many flows as it may")

// statusOf finds the status of a failed dial.
func statusOf(err error) status {
	var dns *net.DNSError
	switch {
	case err == nil:
		return statusOK
	case errors.Is(err, errBusy):
		return statusBusy
	case errors.As(err, &dns) && dns.IsNotFound:
		return statusNoSuchHost
	case errors.As(err, &dns):
		return statusNameserver
	case errors.Is(err, syscall.ECONNREFUSED):
		return statusRefused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EHOSTDOWN):
		return statusHost
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.ENETDOWN):
		return statusNetwork
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return statusForbidden
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return statusTimeout
	}
	return statusOther
}

// err is what s and its text mean to whoever dialled address.
func (s status) err(address, text string) error {
	host, _, _ := net.SplitHostPort(address)
	switch s {
	case statusNoSuchHost:
		return &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	case statusNameserver:
		return &net.DNSError{Err: "the pod's nameservers could not tell: " + text, Name: host, IsTemporary: true}
	}
	if n := s.errno(); n != 0 {
		return os.NewSyscallError("connect", n)
	}
	return errors.New(text)
}

// sendStatus answers a request to connect. Who does not hear it has gone.
func sendStatus(st *stream.Stream, err error) {
	b := []byte{byte(statusOf(err))}
	if err != nil {
		text := err.Error()
		b = append(b, text[:min(len(text), maxStatusText)]...)
	}
	_, _ = st.Write(b)
}

// readStatus reads the answer to a request to connect to address.
func readStatus(st io.Reader, address string) error {
	var first [1]byte
	if _, err := io.ReadFull(st, first[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return refusedBy(err)
	}
	s := status(first[0])
	if s == statusOK {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(st, maxStatusText)) // what has come is shown
	return s.err(address, strings.ToValidUTF8(string(text), "?"))
}

// checkAddress makes sure that address is HOST:PORT. It allows what a name may
// have in DNS, and the zone of an IPv6 address.
func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return &net.AddrError{Err: "want HOST:PORT, an IPv6 address in brackets", Addr: address}
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || port[0] == '+' {
		return &net.AddrError{Err: "want a port from 1 to 65535", Addr: address}
	}
	if host == "" || len(host) > 255 {
		return &net.AddrError{Err: "want the name or the address of a host", Addr: address}
	}
	for _, c := range []byte(host) {
		if c <= ' ' || c == 0x7f || c == '/' {
			return &net.AddrError{Err: "a host has no such character", Addr: address}
		}
	}
	return nil
}

// address is the net.Addr of something in the cluster.
type address struct{ network, text string }

func (a address) Network() string { return a.network }
func (a address) String() string  { return a.text }
