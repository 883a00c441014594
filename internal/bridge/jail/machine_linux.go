package jail

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// serveMachine makes Config.Machine reachable. Where the kernel can tell whether the
// command listens at such an address itself, connections come here only while it does
// not. Elsewhere a socket of ours has the address, and the command can't have it.
func (j *Jail) serveMachine() {
	if len(j.cfg.Machine) == 0 {
		return
	}
	if j.mode == ModeTransparent {
		_, _, err := j.ask(&message{Kind: kindMachine, Machine: j.cfg.Machine})
		if err == nil {
			return
		}
		j.log.Debug("addresses of this machine are taken from the command", "err", err)
	}
	for _, at := range j.cfg.Machine {
		if _, err := j.serveTCP(at); err != nil {
			j.log.Debug("address of this machine is not reachable", "at", at.String(), "err", err)
			continue
		}
		j.taken = append(j.taken, at)
	}
}

// another reports whether a connection to a port inside would come to this machine,
// since it is one of Config.Machine and the command does not listen there.
func (j *Jail) another(port uint16) bool {
	ours := slices.ContainsFunc(j.cfg.Machine, func(at netip.AddrPort) bool { return at.Port() == port })
	return ours && !slices.Contains(j.Listening(), port)
}

// lend hands connections to addresses of the machine to the proxy's sockets, but for
// those that a socket of the command is there for: one that listens, also at all
// addresses, or one that is connected already. It is a chain of its own, so that a
// kernel without the socket expression does without nothing else.
func (f *filter) lend(machine []netip.AddrPort) error {
	chain := f.conn.AddChain(&nftables.Chain{
		Name: "machine", Table: f.table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityMangle - 1),
	})
	for _, at := range machine {
		to := append(toPrefix(netip.PrefixFrom(at.Addr(), at.Addr().BitLen())), protocol(unix.IPPROTO_TCP)...)
		to = append(to,
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(at.Port())})
		f.add(chain, append(slices.Clone(to),
			&expr.Socket{Key: expr.SocketKeyTransparent, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0}}, // ours are transparent
			&expr.Verdict{Kind: expr.VerdictAccept})...)
		f.add(chain, append(to,
			&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(proxyPort)},
			&expr.TProxy{Family: unix.NFPROTO_UNSPEC, TableFamily: unix.NFPROTO_INET, RegPort: 1},
			&expr.Verdict{Kind: expr.VerdictAccept})...)
	}
	return f.conn.Flush()
}
