package egress

import (
	"bytes"
	"context"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var config = Config{Network: "10.41.1.0/24", Address: "10.41.1.1", Host: "10.41.1.254", HostName: "host.bight.internal"}

// ends returns a TAP device's two ends: what the gateway has, and the kernel's.
func ends(t *testing.T) (gateway, kernel *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	gateway, kernel = os.NewFile(uintptr(fds[0]), "out0"), os.NewFile(uintptr(fds[1]), "kernel")
	t.Cleanup(func() { gateway.Close(); kernel.Close() })
	return gateway, kernel
}

func TestTheGatewayAndTheHostAnswerOnTheLink(t *testing.T) {
	g, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	tap, kernel := ends(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(ctx, tap) }()
	for _, address := range []string{config.Address, config.Host} {
		if _, err := kernel.Write(whoHas(address)); err != nil {
			t.Fatal(err)
		}
		if err := kernel.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		frame := make([]byte, 2000)
		n, err := kernel.Read(frame)
		if err != nil {
			t.Fatalf("nobody has %s: %v", address, err)
		}
		mac, err := net.ParseMAC(gatewayMAC)
		if err != nil {
			t.Fatal(err)
		}
		const senderMAC, senderIP = 22, 28
		if n < 42 || !bytes.Equal(frame[senderMAC:senderIP], mac) || !net.IP(frame[senderIP:senderIP+4]).Equal(net.ParseIP(address)) {
			t.Errorf("%s: got %x", address, frame[:n])
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("at the end: %v", err)
	}
}

// whoHas returns an ARP request.
func whoHas(address string) []byte {
	mine := []byte{2, 0, 0, 0, 0, 1}
	frame := bytes.Repeat([]byte{0xff}, 6)
	frame = append(frame, mine...)
	frame = append(frame, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1) // ARP, Ethernet, IPv4, a request
	frame = append(frame, mine...)
	frame = append(frame, 10, 41, 1, 2)
	frame = append(frame, 0, 0, 0, 0, 0, 0)
	return append(frame, net.ParseIP(address).To4()...)
}

func TestADeviceThatGoesIsAnError(t *testing.T) {
	g, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	tap, kernel := ends(t)
	kernel.Close()
	if err := g.Serve(t.Context(), tap); err == nil {
		t.Error("no error")
	}
}

func TestWhatMakesNoSenseIsRefused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no network":      func(c *Config) { c.Network = "10.41.1.0" },
		"a bare name":     func(c *Config) { c.HostName = "host" },
		"an empty name":   func(c *Config) { c.HostName = "" },
		"only a domain":   func(c *Config) { c.HostName = ".internal" },
		"an empty domain": func(c *Config) { c.HostName = "host." },
	} {
		c := config
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
