package jail

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// proxyPort is where flows arrive. Nothing else listens on it (it is tcpmux's).
const proxyPort = 1

// filter holds the netfilter rules of the namespace:
//
//	proxy (prerouting): to lo's own addresses: accept; other TCP and UDP: to the
//	                    proxy's sockets
//	machine (prerouting): to lent addresses where the command does not listen: to the
//	                    proxy's sockets
//	ping (output):      to lo's own addresses: accept; other echo requests: reject
//	known (output):     to a service range, and not a known address and port: reject
type filter struct {
	conn   *nftables.Conn
	table  *nftables.Table
	output *nftables.Chain
	known4 *nftables.Set
	known6 *nftables.Set
}

func makeFilter(own []netip.Addr) (*filter, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	f := &filter{conn: conn}
	f.table = conn.AddTable(&nftables.Table{Name: "bight", Family: nftables.TableFamilyINet})
	pre := conn.AddChain(&nftables.Chain{
		Name: "proxy", Table: f.table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle,
	})
	f.output = conn.AddChain(&nftables.Chain{
		Name: "known", Table: f.table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
	})
	ping := conn.AddChain(&nftables.Chain{
		Name: "ping", Table: f.table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
	})
	for _, p := range exempt(own) {
		f.add(pre, append(toPrefix(p), &expr.Verdict{Kind: expr.VerdictAccept})...)
		f.add(ping, append(toPrefix(p), &expr.Verdict{Kind: expr.VerdictAccept})...)
	}
	f.add(ping, rejectEcho(unix.NFPROTO_IPV4, unix.IPPROTO_ICMP, 8)...)
	f.add(ping, rejectEcho(unix.NFPROTO_IPV6, unix.IPPROTO_ICMPV6, 128)...)
	for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		f.add(pre, append(protocol(proto),
			&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(proxyPort)},
			&expr.TProxy{Family: unix.NFPROTO_UNSPEC, TableFamily: unix.NFPROTO_INET, RegPort: 1},
			&expr.Verdict{Kind: expr.VerdictAccept})...)
	}
	if f.known4, err = f.addSet("known4", nftables.TypeIPAddr); err != nil {
		return nil, err
	}
	if f.known6, err = f.addSet("known6", nftables.TypeIP6Addr); err != nil {
		return nil, err
	}
	return f, conn.Flush()
}

func (f *filter) add(chain *nftables.Chain, e ...expr.Any) {
	f.conn.AddRule(&nftables.Rule{Table: f.table, Chain: chain, Exprs: e})
}

// addSet adds a set of address, protocol and port.
func (f *filter) addSet(name string, address nftables.SetDatatype) (*nftables.Set, error) {
	key, err := nftables.ConcatSetType(address, nftables.TypeInetProto, nftables.TypeInetService)
	if err != nil {
		return nil, err
	}
	s := &nftables.Set{Table: f.table, Name: name, KeyType: key, Concatenation: true}
	return s, f.conn.AddSet(s, nil)
}

// know replaces the known services in one transaction.
func (f *filter) know(s *Services) error {
	f.conn.FlushChain(f.output)
	f.conn.FlushSet(f.known4)
	f.conn.FlushSet(f.known6)
	elements := map[bool]map[string]nftables.SetElement{true: {}, false: {}}
	for proto, all := range map[byte][]netip.AddrPort{unix.IPPROTO_TCP: s.TCP, unix.IPPROTO_UDP: s.UDP} {
		for _, ap := range all {
			key := elementKey(ap, proto)
			elements[ap.Addr().Unmap().Is4()][string(key)] = nftables.SetElement{Key: key}
		}
	}
	for is4, set := range map[bool]*nftables.Set{true: f.known4, false: f.known6} {
		var list []nftables.SetElement
		for _, e := range elements[is4] {
			list = append(list, e)
		}
		// A netlink message has room for some thousand elements only.
		for len(list) > 0 {
			n := min(len(list), 500)
			if err := f.conn.SetAddElements(set, list[:n]); err != nil {
				return err
			}
			list = list[n:]
		}
	}
	for _, p := range s.Ranges {
		f.addRange(p)
	}
	return f.conn.Flush()
}

// addRange refuses what is not known in a range.
func (f *filter) addRange(p netip.Prefix) {
	set, is4 := f.known6, p.Addr().Unmap().Is4()
	if is4 {
		set = f.known4
	}
	for proto, reject := range map[byte]*expr.Reject{
		unix.IPPROTO_TCP: {Type: unix.NFT_REJECT_TCP_RST},
		unix.IPPROTO_UDP: {Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH},
	} {
		e := append(protocol(proto), toPrefix(p)...)
		e = append(e, loadKey(is4)...)
		e = append(e, &expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetID: set.ID, SetName: set.Name, Invert: true}, reject)
		f.add(f.output, e...)
	}
}

// elementKey is an element of a set of addSet: each part fills up 32 bits.
func elementKey(ap netip.AddrPort, proto byte) []byte {
	key := append([]byte{}, ap.Addr().Unmap().AsSlice()...)
	key = append(key, proto, 0, 0, 0)
	return append(key, byte(ap.Port()>>8), byte(ap.Port()), 0, 0)
}

// loadKey puts the packet's destination where Lookup expects elementKey.
func loadKey(is4 bool) []expr.Any {
	address, next := &expr.Payload{DestRegister: unix.NFT_REG32_00, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}, uint32(1)
	if !is4 {
		address.Offset, address.Len, next = 24, 16, 4
	}
	return []expr.Any{
		address,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG32_00 + next},
		&expr.Payload{DestRegister: unix.NFT_REG32_00 + next + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// exempt are the destinations that stay inside the namespace.
func exempt(own []netip.Addr) []netip.Prefix {
	all := []netip.Prefix{
		netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("255.255.255.255/32"),
		netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
		netip.PrefixFrom(nameserver, 32),
	}
	for _, a := range own {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	return all
}

// toPrefix matches packets to a prefix.
func toPrefix(p netip.Prefix) []expr.Any {
	family, load := byte(unix.NFPROTO_IPV4), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}
	if p.Addr().Is6() {
		family, load.Offset, load.Len = unix.NFPROTO_IPV6, 24, 16
	}
	net := ipNet(p.Masked())
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		load,
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: load.Len, Mask: net.Mask, Xor: make([]byte, load.Len)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: net.IP},
	}
}

func protocol(proto byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
	}
}

func rejectEcho(family, proto, echo byte) []expr.Any {
	return append([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
	}, append(protocol(proto),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{echo}},
		&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED},
	)...)
}
