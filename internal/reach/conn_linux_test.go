package reach

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/stream"
)

func TestBytesGoBothWaysAndHalfCloseIsKept(t *testing.T) {
	for _, network := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(network, func(t *testing.T) {
			s := connect(t, &Server{})
			addr := listen(t, network, func(c *net.TCPConn) {
				b, _ := io.ReadAll(c) // all of it, up to the half-close
				_, _ = c.Write(append([]byte("got "), b...))
			})
			c, err := (&Dialer{Open: s}).DialContext(t.Context(), "tcp", addr.String())
			must(t, err)
			defer c.Close()
			sent := make([]byte, 3<<20)
			_, _ = rand.Read(sent)
			_, err = c.Write(sent)
			must(t, err)
			must(t, c.(*Conn).CloseWrite())
			got, err := io.ReadAll(c)
			must(t, err)
			if !bytes.Equal(got, append([]byte("got "), sent...)) {
				t.Errorf("%d bytes came back, want the %d that were sent", len(got), len(sent)+4)
			}
		})
	}
}

func TestDialErrorsAreThoseOfThePod(t *testing.T) {
	closed := closedPort(t)
	nowhere := fullListener(t)
	for _, tt := range []struct {
		addr string
		is   error
	}{
		{"127.0.0.1:" + closed, syscall.ECONNREFUSED},
		{"localhost:" + closed, syscall.ECONNREFUSED},
		{"[::1]:" + closed, syscall.ECONNREFUSED},
		{nowhere, syscall.ETIMEDOUT},
		{"255.255.255.255:80", syscall.ENETUNREACH},
	} {
		t.Run(tt.addr, func(t *testing.T) {
			s := connect(t, &Server{DialTimeout: 200 * time.Millisecond})
			c, err := (&Dialer{Open: s}).DialContext(t.Context(), "tcp", tt.addr)
			if err == nil {
				defer c.Close()
				_, err = c.Read(make([]byte, 1))
			}
			var op *net.OpError
			if !errors.Is(err, tt.is) || !errors.As(err, &op) || op.Op != "dial" || op.Addr.String() != tt.addr {
				t.Errorf("error %v, want one of dialling that is %v", err, tt.is)
			}
		})
	}
}

func TestDialNameThatDoesNotExist(t *testing.T) {
	s := connect(t, &Server{})
	_, err := Dial(t.Context(), s, "tcp", "no-such-name.invalid:80")
	var dns *net.DNSError
	if !errors.As(err, &dns) || dns.Name != "no-such-name.invalid" {
		t.Fatalf("error %v, want a DNS error of the name", err)
	}
	// Where the machine has no nameserver, nobody can tell.
	if !dns.IsNotFound && !dns.IsTemporary {
		t.Errorf("%#v is neither that it does not exist nor that nobody knows", dns)
	}
}

func TestStatusOfErrorsAndBack(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want status
		is   error
	}{
		{syscall.ECONNREFUSED, statusRefused, syscall.ECONNREFUSED},
		{syscall.EHOSTUNREACH, statusHost, syscall.EHOSTUNREACH},
		{syscall.ENETUNREACH, statusNetwork, syscall.ENETUNREACH},
		{syscall.EPERM, statusForbidden, syscall.EACCES},
		{os.ErrDeadlineExceeded, statusTimeout, syscall.ETIMEDOUT},
		{errBusy, statusBusy, syscall.EAGAIN},
		{&net.DNSError{IsNotFound: true}, statusNoSuchHost, nil},
		{&net.DNSError{IsTimeout: true}, statusNameserver, nil},
		{errTest, statusOther, nil},
	} {
		got := statusOf(&net.OpError{Op: "dial", Err: tt.err})
		if got != tt.want {
			t.Errorf("status of %v is %d, want %d", tt.err, got, tt.want)
		}
		back := readStatus(bytes.NewReader(append([]byte{byte(got)}, tt.err.Error()...)), "host:80")
		if tt.is != nil && !errors.Is(back, tt.is) {
			t.Errorf("%v comes back as %v", tt.err, back)
		}
		if tt.is == nil && got == statusOther && back.Error() != tt.err.Error() {
			t.Errorf("%v comes back as %v", tt.err, back)
		}
	}
}

func TestBadAddressesAreRefusedAtBothEnds(t *testing.T) {
	s := connect(t, &Server{})
	for _, addr := range []string{"", "host", ":80", "host:", "host:0", "host:65536", "host:http", "host:+80", "a b:80", "::1:80", "a/b:80", strings.Repeat("a", 256) + ":80"} {
		if _, err := Dial(t.Context(), s, "tcp", addr); err == nil {
			t.Errorf("Dial %q: no error", addr)
		}
		st, err := s.Open(t.Context(), []byte(headerTCP+addr))
		must(t, err)
		if err := readStatus(st, "host:80"); err == nil {
			t.Errorf("the agent dials %q", addr)
		}
		_ = st.Close()
	}
	if _, err := Dial(t.Context(), s, "unix", "host:80"); err == nil {
		t.Error("unix sockets can be dialled")
	}
}

func TestHeaderThatTheAgentDoesNotKnow(t *testing.T) {
	s := connect(t, &Server{})
	st, err := s.Open(t.Context(), []byte("dance"))
	must(t, err)
	_, err = st.Read(make([]byte, 1))
	var reset *stream.ResetError
	if !errors.As(err, &reset) || reset.Code != stream.CodeRefused {
		t.Errorf("error %v, want a refusal", err)
	}
}

func TestResetOfTheServiceIsAReset(t *testing.T) {
	s := connect(t, &Server{})
	reset := make(chan struct{})
	addr := listen(t, "127.0.0.1:0", func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		<-reset
		_ = c.SetLinger(0)
	})
	c := dial(t, s, addr.String())
	_, err := c.Write([]byte("x"))
	must(t, err)
	close(reset)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read = %v, want ECONNRESET", err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Write = %v, want ECONNRESET", err)
	}
}

func TestResetOfTheLaptopIsAReset(t *testing.T) {
	s := connect(t, &Server{})
	got := make(chan error, 1)
	addr := listen(t, "127.0.0.1:0", func(c *net.TCPConn) {
		_, err := io.ReadAll(c)
		got <- err
	})
	c := dial(t, s, addr.String())
	_, err := c.Write([]byte("x"))
	must(t, err)
	c.Reset()
	if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the service reads %v, want ECONNRESET", err)
	}
}

func TestCloseDeliversWhatWasWritten(t *testing.T) {
	s := connect(t, &Server{})
	got := make(chan []byte, 1)
	addr := listen(t, "127.0.0.1:0", func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		got <- b
		// A service that goes on writing is told, as by a kernel.
		for {
			if _, err := c.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	c := dial(t, s, addr.String())
	sent := bytes.Repeat([]byte("bight"), 100<<10)
	_, err := c.Write(sent)
	must(t, err)
	must(t, c.Close())
	if b := <-got; !bytes.Equal(b, sent) {
		t.Errorf("%d bytes came, want %d", len(b), len(sent))
	}
}

func TestServiceThatNeitherReadsNorEnds(t *testing.T) {
	s := connect(t, &Server{})
	release := make(chan struct{})
	addr := listen(t, "127.0.0.1:0", func(c *net.TCPConn) { <-release })
	t.Cleanup(func() { close(release) })
	c := dial(t, s, addr.String())
	must(t, c.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
	for {
		if _, err := c.Write(make([]byte, 1<<20)); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Write = %v", err)
			}
			break
		}
	}
	c.Reset() // and the end of the test finds no goroutine
}

func TestGivingUpEndsTheDialInThePod(t *testing.T) {
	s := connect(t, &Server{DialTimeout: time.Hour})
	addr := fullListener(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := Dial(ctx, s, "tcp", addr)
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial = %v", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("giving up took %v", d)
	}
}

func TestPortOfThePod(t *testing.T) {
	s := connect(t, &Server{})
	addr := listen(t, "[::1]:"+closedPort(t), echo) // only the second of the hosts
	st, err := s.Open(t.Context(), fmt.Append(nil, "dial ", addr.Port))
	must(t, err)
	must(t, readStatus(st, ""))
	_, err = st.Write([]byte("hello"))
	must(t, err)
	must(t, st.CloseWrite())
	if b, err := io.ReadAll(st); string(b) != "hello" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
	st, err = s.Open(t.Context(), []byte("dial "+closedPort(t)))
	must(t, err)
	if err := readStatus(st, ""); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("closed port: %v", err)
	}
}

func TestEndOfTheSessionEndsFlows(t *testing.T) {
	s := connect(t, &Server{})
	ended := make(chan struct{})
	addr := listen(t, "127.0.0.1:0", func(c *net.TCPConn) {
		_, _ = io.ReadAll(c)
		close(ended)
	})
	c := dial(t, s, addr.String())
	_ = s.Close()
	<-ended
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("Read = %v, want an error", err)
	}
}

// roundTrip sends n bytes through an echo service and waits for them.
func roundTrip(c net.Conn, n int) error {
	b := make([]byte, n)
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b)
	return err
}

func TestThousandFlowsAtOnce(t *testing.T) {
	const flows, rounds, size = 1000, 20, 4 << 10
	s := connect(t, &Server{})
	addr := listen(t, "127.0.0.1:0", echo).String()
	var g sync.WaitGroup
	begin := make(chan struct{})
	took := make([]time.Duration, flows)
	var ready sync.WaitGroup
	ready.Add(flows)
	d := &Dialer{Open: s}
	for i := range flows {
		g.Go(func() {
			c, err := d.DialContext(t.Context(), "tcp", addr)
			ready.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			<-begin
			start := time.Now()
			for range rounds {
				if err := roundTrip(c, size); err != nil {
					t.Error(err)
					return
				}
			}
			took[i] = time.Since(start)
		})
	}
	ready.Wait()
	close(begin)
	g.Wait()
	slices.Sort(took)
	t.Logf("%d flows, %d round trips of %d bytes each: median %v, slowest %v", flows, rounds, size, took[flows/2], took[flows-1])
}

func TestReaderThatStallsDoesNotStallOthers(t *testing.T) {
	s := connect(t, &Server{})
	flood := listen(t, "127.0.0.1:0", func(c *net.TCPConn) {
		for {
			if _, err := c.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}).String()
	echoing := listen(t, "127.0.0.1:0", echo).String()
	c := dial(t, s, echoing)
	measure := func() time.Duration {
		start := time.Now()
		for range 200 {
			must(t, roundTrip(c, 64))
		}
		return time.Since(start) / 200
	}
	alone := measure()
	for range 4 {
		stalled := dial(t, s, flood) // nobody reads
		defer stalled.Close()
	}
	beside := measure()
	t.Logf("round trip alone %v, beside stalled readers %v", alone, beside)
}

// closedPort returns a port of 127.0.0.1 on which nobody listens while the test runs: it is
// bound.
func closedPort(t testing.TB) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	must(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	at, err := syscall.Getsockname(fd)
	must(t, err)
	return strconv.Itoa(at.(*syscall.SockaddrInet4).Port)
}

// fullListener returns an address that does not answer attempts to connect: its
// queue is full.
func fullListener(t testing.TB) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	must(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(t, syscall.Listen(fd, 0))
	sa, err := syscall.Getsockname(fd)
	must(t, err)
	addr := fmt.Sprintf("127.0.0.1:%d", sa.(*syscall.SockaddrInet4).Port)
	for {
		c, err := net.DialTimeout("tcp", addr, 100*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = c.Close() })
	}
}
