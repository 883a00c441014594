//go:build !linux

package jail

import (
	"context"
	"net"
	"net/netip"
	"syscall"
)

// Main does nothing on this system.
func Main([]string) {}

// Jail is a running command with a network of its own. There is none on this
// system.
type Jail struct{ done chan struct{} }

// Start returns ErrUnsupported.
func Start(context.Context, Config) (*Jail, error) { return nil, ErrUnsupported }

// Wait returns ErrUnsupported.
func (j *Jail) Wait() (int, error) { return 0, ErrUnsupported }

// Done is never closed.
func (j *Jail) Done() <-chan struct{} { return j.done }

// Mode returns "".
func (j *Jail) Mode() Mode { return "" }

// Signal returns ErrUnsupported.
func (j *Jail) Signal(syscall.Signal) error { return ErrUnsupported }

// Update returns ErrUnsupported.
func (j *Jail) Update(Mount) error { return ErrUnsupported }

// SetServices returns ErrUnsupported.
func (j *Jail) SetServices(Services) error { return ErrUnsupported }

// DialInside returns ErrUnsupported.
func (j *Jail) DialInside(context.Context, string, uint16) (net.Conn, error) {
	return nil, ErrUnsupported
}

// Listening returns none.
func (j *Jail) Listening() []uint16 { return nil }

// Publish returns ErrUnsupported.
func (j *Jail) Publish(uint16, uint16) (netip.AddrPort, error) {
	return netip.AddrPort{}, ErrUnsupported
}

func probe(context.Context) []Rung {
	const remedy = "use the proxy, or run bight in a Linux container or virtual machine"
	return []Rung{
		{Mode: ModeTransparent, Why: ErrUnsupported.Error(), Remedy: remedy},
		{Mode: ModeListeners, Why: ErrUnsupported.Error(), Remedy: remedy},
	}
}
