package jail

import (
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/bightdev/bight/internal/procnet"
)

// Listening returns the ports on which the command listens where DialInside would find it,
// in order, as far as /proc tells.
func (j *Jail) Listening() []uint16 {
	var all []uint16
	for _, name := range []string{"tcp", "tcp6"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", j.keeper.Process.Pid, name))
		if err != nil {
			continue
		}
		some, err := procnet.Listening(string(b))
		if err != nil {
			continue
		}
		for _, at := range some {
			a := at.Addr().Unmap()
			ours := at.Port() == proxyPort && a.IsUnspecified() || slices.Contains(j.taken, netip.AddrPortFrom(a, at.Port()))
			if !ours && (a.IsUnspecified() || a.IsLoopback() || slices.Contains(j.own, a)) {
				all = append(all, at.Port())
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
