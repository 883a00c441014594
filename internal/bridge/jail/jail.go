package jail

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// Config says what to run and what it sees.
type Config struct {
	Command []string // program and arguments; the program is looked up in Env's PATH
	Dir     string   // working directory, "" for this process's
	Env     []string // complete environment
	// Standard streams. An *os.File is inherited as it is, so that a terminal
	// stays one; nil is the null device.
	Stdin          io.Reader
	Stdout, Stderr io.Writer

	// Resolv is the content of the pod's resolv.conf. Its name servers are
	// replaced by one that asks Resolve.
	Resolv   string
	Hosts    string // content of /etc/hosts; "" for localhost and Hostname only
	Hostname string // "" for the machine's
	Mounts   []Mount

	// Ranges are the cluster's addresses. A flow to any other goes to the
	// machine's own network. Without Ranges, everything goes to the cluster.
	Ranges []netip.Prefix
	// Local overrides Ranges: it says what goes to the machine's own network.
	Local func(netip.AddrPort) bool
	// Addresses are the command's own, the pod's for example: at most one of
	// each family. The defaults are 198.18.0.2 and fd62:6967:6874::2.
	Addresses []netip.Addr
	// IPv6 says that the cluster can be reached by IPv6 beyond Ranges. Where
	// there is no way for IPv6, it fails as unreachable at once, so that programs
	// turn to IPv4.
	IPv6 bool
	// Services are the cluster's known ports; SetServices replaces them.
	Services Services
	// Machine are TCP addresses of this machine's loopback which the command finds at
	// its own, too, for as long as it does not listen there itself.
	Machine []netip.AddrPort

	// Dial opens a TCP connection in the cluster, DialUDP one that keeps the
	// bounds of datagrams. Resolve answers a DNS message.
	Dial    func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)
	DialUDP func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	Resolve func(ctx context.Context, query []byte) ([]byte, error)

	// Mode is how the network is made; "" is the best that works.
	Mode Mode
	// Grace is how long the command has between SIGTERM and SIGKILL when the
	// context ends: 5 s.
	Grace time.Duration
	Log   *slog.Logger
}

// Services are addresses and ports that are known to exist. In Ranges (usually
// the cluster's service range) every other one is refused; without Ranges nothing
// is. In ModeListeners, they are also all that can be reached.
type Services struct {
	Ranges   []netip.Prefix
	TCP, UDP []netip.AddrPort
}

// Mount is a volume of the pod as the command sees it.
type Mount struct {
	// Path is where it is shown, absolute. It need not exist on this machine.
	Path string
	// Files are its content. A single File without a name makes Path a file
	// itself, which keeps the content it started with, as subPath mounts do.
	Files []File
	// Projected shows Files the way kubelet shows a ConfigMap, a Secret or a
	// projected volume: behind a symbolic link ..data, so that an update changes
	// all of them at one instant. Not for Files that have that layout already.
	Projected bool
}

// File is one file of a Mount, or a directory, by its Mode. Those above a file need not
// be named.
type File struct {
	Name    string // relative to the mount's path, with slashes
	Mode    fs.FileMode
	Content []byte
	Link    string // target, if it is a symbolic link
}

// Mode is a way to give a command a network of its own.
type Mode string

// Modes that Start can use, best first.
const (
	// ModeTransparent carries TCP and UDP to any address and port.
	ModeTransparent Mode = "userns+tproxy"
	// ModeListeners needs no netfilter and carries what Services names.
	ModeListeners Mode = "userns+listeners"
)

// ErrUnsupported is returned where jails can't be made at all.
var ErrUnsupported = errors.New("commands with a network of their own need Linux; use the proxy (bight connect --proxy) or a Linux container here")

// HostName is the name by which a command reaches this machine's own loopback
// addresses.
const HostName = "host.bight.internal"

// StartError says that the command could not be started.
type StartError struct {
	Command string
	Code    int // as shells do it: 127 not found, 126 not executable
	Err     error
}

// Error implements error.
func (e *StartError) Error() string {
	switch e.Code {
	case codeNotFound:
		return fmt.Sprintf("start %s: %v: no such program in PATH or at this path", e.Command, e.Err)
	default:
		return fmt.Sprintf("start %s: %v: the file can't be executed; check its mode, and its first line if it is a script", e.Command, e.Err)
	}
}

// Unwrap returns the cause.
func (e *StartError) Unwrap() error { return e.Err }

const (
	codeNotFound      = 127
	codeNotExecutable = 126
	codeSignal        = 128 // plus the signal's number
)

// SetupError says which step of making the namespaces did not work, and what
// would help.
type SetupError struct {
	Step   string
	Err    error
	Remedy string
}

// Error implements error.
func (e *SetupError) Error() string {
	text := fmt.Sprintf("make a network for the command: %s: %v", e.Step, e.Err)
	if e.Remedy != "" {
		text += "; " + e.Remedy
	}
	return text
}

// Unwrap returns the cause.
func (e *SetupError) Unwrap() error { return e.Err }

func (cfg *Config) check() error {
	if len(cfg.Command) == 0 {
		return errors.New("no command to run")
	}
	if cfg.Dial == nil || cfg.DialUDP == nil || cfg.Resolve == nil {
		return errors.New("jail: Dial, DialUDP and Resolve are required")
	}
	switch cfg.Mode {
	case "", ModeTransparent, ModeListeners:
	default:
		return fmt.Errorf("no network mode %q: there are %s and %s", cfg.Mode, ModeTransparent, ModeListeners)
	}
	for _, at := range cfg.Machine {
		if !at.Addr().IsLoopback() || at.Port() == 0 {
			return fmt.Errorf("jail: %s is no address of this machine's loopback", at)
		}
	}
	for i := range cfg.Mounts {
		if err := cfg.Mounts[i].check(); err != nil {
			return err
		}
	}
	return nil
}
