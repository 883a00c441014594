// Package netns makes the network namespaces that a cluster lives in and opens
// sockets and starts processes inside them. The main type is [Namespace]: it
// exists for as long as it is open or a process runs in it, it has no name in
// the file system, and no way out but the links it is given.
//
// A Namespace may be used from many goroutines.
package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is one network namespace.
type Namespace struct {
	handle vns.NsHandle
}

// New makes a namespace with nothing but a loopback interface, which is up.
func New() (*Namespace, error) {
	n := &Namespace{}
	err := onThread(func() (err error) {
		n.handle, err = vns.New()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	err = n.With(func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return h.LinkSetUp(lo)
	})
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("set loopback up: %w", err)
	}
	return n, nil
}

// Close lets go of the namespace. It ends when its last process does.
func (n *Namespace) Close() error { return n.handle.Close() }

// With calls f with a netlink handle that acts inside the namespace.
func (n *Namespace) With(f func(*netlink.Handle) error) error {
	h, err := netlink.NewHandleAt(n.handle)
	if err != nil {
		return err
	}
	defer h.Close()
	return f(h)
}

// Do calls f on a thread that is inside the namespace. Sockets that f makes and
// processes that it starts stay there. f must not start goroutines that need it.
func (n *Namespace) Do(f func() error) error {
	return onThread(func() error {
		if err := vns.Set(n.handle); err != nil {
			return fmt.Errorf("enter the network namespace: %w", err)
		}
		return f()
	})
}

// onThread calls f on a thread of its own, which comes back from whatever
// namespace f takes it to. One that can't come back ends.
func onThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := vns.Get()
		if err != nil {
			result <- err
			return
		}
		defer home.Close()
		err = f()
		if vns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// Start starts cmd inside the namespace.
func (n *Namespace) Start(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// Listen opens a TCP listener inside the namespace.
func (n *Namespace) Listen(address string) (net.Listener, error) {
	var listener net.Listener
	err := n.Do(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	return listener, err
}

// Dial connects to a TCP address inside the namespace. The address has to be
// numeric, for names are looked up on threads that are elsewhere.
func (n *Namespace) Dial(ctx context.Context, address string) (net.Conn, error) {
	tcp, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	var conn net.Conn
	err = n.Do(func() (err error) {
		dialer := net.Dialer{Timeout: 10 * time.Second}
		conn, err = dialer.DialContext(ctx, "tcp", tcp.String())
		return err
	})
	return conn, err
}

// Sysctl sets a kernel setting of the namespace, such as "net/ipv4/ip_forward".
func (n *Namespace) Sysctl(name, value string) error {
	return n.Do(func() error {
		// The calling thread's own view decides, which /proc/sys follows.
		return os.WriteFile("/proc/sys/"+name, []byte(value), 0o644)
	})
}

// Doubt has the neighbours of a device asked every moment whether they are there. By default one that was
// there once is believed to be for up to a minute, and whatever is sent to it meanwhile is lost without
// a word: a connection hangs that begins towards a pod which has just ended. Kernels that show these
// settings to nobody, in a user namespace say, keep to that.
func (n *Namespace) Doubt(device string) error {
	for _, family := range []string{"ipv4", "ipv6"} {
		for setting, value := range map[string]string{
			"base_reachable_time_ms": "500", "delay_first_probe_time": "0", "retrans_time_ms": "200",
		} {
			err := n.Sysctl("net/"+family+"/neigh/"+device+"/"+setting, value)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("doubt the neighbours of %s: %w", device, err)
			}
		}
	}
	return nil
}

// Bridge makes a bridge with an address.
func (n *Namespace) Bridge(name, cidr string) error {
	return n.With(func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("make bridge %s: %w", name, err)
		}
		return addressUp(h, name, cidr)
	})
}

// Join plugs n into a bridge of hub: n gets an interface eth0 with the address.
func (n *Namespace) Join(hub *Namespace, bridge, port, cidr string) error {
	err := hub.With(func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = port
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(n.handle)}
		if err := h.LinkAdd(veth); err != nil {
			return fmt.Errorf("make link %s: %w", port, err)
		}
		link, err := h.LinkByName(port)
		if err != nil {
			return err
		}
		master, err := h.LinkByName(bridge)
		if err != nil {
			return err
		}
		if err := h.LinkSetMaster(link, master); err != nil {
			return err
		}
		return h.LinkSetUp(link)
	})
	if err != nil {
		return err
	}
	return n.With(func(h *netlink.Handle) error { return addressUp(h, "eth0", cidr) })
}

// Address gives a device another address, which nobody else is asked about first.
func (n *Namespace) Address(device, cidr string) error {
	return n.With(func(h *netlink.Handle) error { return addressUp(h, device, cidr) })
}

// Route sends traffic for cidr to a gateway; an empty cidr means everything.
func (n *Namespace) Route(cidr, gateway string) error {
	return n.With(func(h *netlink.Handle) error {
		route := &netlink.Route{Gw: net.ParseIP(gateway)}
		if cidr != "" {
			_, dst, err := net.ParseCIDR(cidr)
			if err != nil {
				return err
			}
			route.Dst = dst
		}
		return h.RouteReplace(route)
	})
}

// Tap makes a TAP device with an address and returns its file, from which
// Ethernet frames are read and to which they are written.
func (n *Namespace) Tap(name, cidr string, mtu int) (*os.File, error) {
	var fd int
	err := n.Do(func() (err error) {
		fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	})
	if err != nil {
		return nil, fmt.Errorf("make TAP device %s: %w", name, err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), name)
	err = n.With(func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		if err := h.LinkSetMTU(link, mtu); err != nil {
			return err
		}
		return addressUp(h, name, cidr)
	})
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func addressUp(h *netlink.Handle, name, cidr string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	address, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	if address.IP.To4() == nil {
		address.Flags = unix.IFA_F_NODAD // it can be used at once
	}
	if err := h.AddrAdd(link, address); err != nil {
		return fmt.Errorf("give %s the address %s: %w", name, cidr, err)
	}
	return h.LinkSetUp(link)
}

// RouteDevice sends traffic for cidr out of a device; an empty cidr means
// everything.
func (n *Namespace) RouteDevice(cidr, device string) error {
	return n.With(func(h *netlink.Handle) error {
		link, err := h.LinkByName(device)
		if err != nil {
			return err
		}
		if cidr == "" {
			cidr = "0.0.0.0/0"
		}
		_, dst, err := net.ParseCIDR(cidr)
		if err != nil {
			return err
		}
		return h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK})
	})
}
