package jail

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
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
		for _, at := range listening(string(b)) {
			a := at.Addr()
			if ours := at.Port() == proxyPort && a.IsUnspecified(); !ours && (a.IsUnspecified() || a.IsLoopback() || slices.Contains(j.own, a)) {
				all = append(all, at.Port())
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// listening reads which sockets of /proc/PID/net/tcp or tcp6 listen, and where.
func listening(table string) []netip.AddrPort {
	const listens = "0A"
	var all []netip.AddrPort
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 4 || fields[3] != listens {
			continue
		}
		address, port, _ := strings.Cut(fields[1], ":")
		raw, err := hex.DecodeString(address)
		number, bad := strconv.ParseUint(port, 16, 16)
		if err != nil || bad != nil || len(raw)%4 != 0 {
			continue
		}
		for i := 0; i < len(raw); i += 4 { // words, each as this machine has them
			slices.Reverse(raw[i : i+4])
		}
		if a, ok := netip.AddrFromSlice(raw); ok {
			all = append(all, netip.AddrPortFrom(a.Unmap(), uint16(number)))
		}
	}
	return all
}
