package jail

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// onMachine is the echo server's address here, and the same port of ::1 and of all
// addresses.
func (c *cluster) onMachine() (at netip.AddrPort, six, any string) {
	at = netip.MustParseAddrPort(c.tcp)
	_, port, _ := net.SplitHostPort(c.tcp)
	return at, "[::1]:" + port, ":" + port
}

func TestAnAddressOfTheMachineIsTheCommandsToo(t *testing.T) {
	c := newCluster(t)
	at, _, any := c.onMachine()
	for _, tc := range []struct {
		name string
		mode Mode
		args []string
		want string
	}{
		{"whoever listens has it", ModeTransparent, []string{c.tcp, c.tcp, "0.0.0.0" + any, any}, "x\nown\nx\nown\nx\nown\nx\nstill\n"},
		{"the kernel can't tell", ModeListeners, []string{c.tcp, c.tcp}, "x\nin use\nstill\n"},
	} {
		cfg := c.role("own", tc.args...)
		cfg.Mode, cfg.Machine = tc.mode, []netip.AddrPort{at}
		if got := run(t, cfg); got != (result{Out: tc.want}) {
			t.Errorf("%s: %+v, want %q", tc.name, got, tc.want)
		}
	}
	if len(c.dialed) != 0 {
		t.Errorf("the cluster was asked for %v", c.dialed)
	}
}

func TestNoOtherAddressOfTheMachineIsTheCommands(t *testing.T) {
	c, other := newCluster(t), newCluster(t)
	at, six, _ := c.onMachine()
	for _, mode := range []Mode{ModeTransparent, ModeListeners} {
		for _, to := range []string{other.tcp, six, strings.Replace(c.tcp, "127.0.0.1", "127.0.0.2", 1)} {
			cfg := c.role("echo", to, "x")
			cfg.Mode, cfg.Machine = mode, []netip.AddrPort{at}
			if got := run(t, cfg); got.Code != 1 || !strings.Contains(got.Err, "connection refused") {
				t.Errorf("%s to %s: %+v, want refused", mode, to, got)
			}
		}
	}
	cfg := c.role("echo", echo4, "x")
	cfg.Machine = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:80")}
	if _, err := toEnd(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "192.0.2.1:80") {
		t.Errorf("an address that is not loopback: %v", err)
	}
}

func TestAnAddressOfTheMachineIsNoPortOfTheCommand(t *testing.T) {
	c := newCluster(t)
	at, _, _ := c.onMachine()
	for _, mode := range []Mode{ModeTransparent, ModeListeners} {
		cfg := c.role("serve", "127.0.0.1:0")
		cfg.Mode, cfg.Machine = mode, []netip.AddrPort{at}
		stdout, out := io.Pipe()
		cfg.Stdout, cfg.Stderr = out, os.Stderr
		ctx, cancel := context.WithCancel(t.Context())
		j, err := Start(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stdout.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		if conn, err := j.DialInside(ctx, "tcp", at.Port()); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v, %v, want refused", mode, conn, err)
		}
		if got := j.Listening(); len(got) != 1 {
			t.Errorf("%s: it is said to listen on %d", mode, got)
		}
		cancel()
		_, _ = j.Wait()
	}
}
