package node

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// plan is what the rules of a door do.
type plan struct {
	addrs  []netip.Addr   // of the pod
	ports  []uint16       // that are steered
	exempt []netip.Prefix // sources that are not
	// exemptPorts are those that exempt is about; none are all.
	exemptPorts []uint16
	doors       []netip.AddrPort
}

// loopbackIndex is the index of lo in every network namespace.
const loopbackIndex = 1

// rules returns the rules in their order. A packet that no rule gives to a door
// goes its way as if there were none. So does a packet for which the TPROXY
// expression finds no transparent socket: one of a connection that the app has,
// and any while no door listens.
//
// There is no mark and no route, as other uses of TPROXY need: what is for the
// pod's own addresses is delivered locally anyway.
func (p plan) rules() [][]expr.Any {
	verdict := func(k expr.VerdictKind) expr.Any { return &expr.Verdict{Kind: k} }
	rules := [][]expr.Any{append(
		match(&expr.Meta{Key: expr.MetaKeyIIF, Register: 1}, binary.NativeEndian.AppendUint32(nil, loopbackIndex)),
		verdict(expr.VerdictReturn),
	)}
	for _, from := range p.exempt {
		f := fieldsOf(from.Addr())
		if len(p.exemptPorts) == 0 {
			rules = append(rules, slices.Concat(f.family(), f.source(from), []expr.Any{verdict(expr.VerdictReturn)}))
		}
		for _, port := range p.exemptPorts {
			rules = append(rules, slices.Concat(f.family(), f.source(from), tcpTo(port), []expr.Any{verdict(expr.VerdictReturn)}))
		}
	}
	for _, door := range p.doors {
		f := fieldsOf(door.Addr())
		for _, addr := range p.addrs {
			if addr.Is4() != door.Addr().Is4() {
				continue
			}
			for _, port := range p.ports {
				rules = append(rules, slices.Concat(f.family(), f.destination(addr, port), f.give(door)))
			}
		}
	}
	return rules
}

// fields says where an address family has what.
type fields struct {
	proto          byte
	src, dst, size uint32 // offsets and size of its addresses
}

func fieldsOf(a netip.Addr) fields {
	if a.Is4() {
		return fields{unix.NFPROTO_IPV4, 12, 16, 4}
	}
	return fields{unix.NFPROTO_IPV6, 8, 24, 16}
}

func (f fields) family() []expr.Any {
	return match(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, []byte{f.proto})
}

// source matches packets from a network.
func (f fields) source(from netip.Prefix) []expr.Any {
	mask := make([]byte, f.size)
	for i := range from.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.src, Len: f.size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: f.size, Mask: mask, Xor: make([]byte, f.size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: from.Masked().Addr().AsSlice()},
	}
}

// destination matches TCP packets to an address and port.
func (f fields) destination(addr netip.Addr, port uint16) []expr.Any {
	return slices.Concat(
		match(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.dst, Len: f.size}, addr.AsSlice()),
		tcpTo(port),
	)
}

// tcpTo matches TCP packets to a port.
func tcpTo(port uint16) []expr.Any {
	return slices.Concat(
		match(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, []byte{unix.IPPROTO_TCP}),
		match(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, binary.BigEndian.AppendUint16(nil, port)),
	)
}

// give gives a packet to the socket of a door.
func (f fields) give(door netip.AddrPort) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: door.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, door.Port())},
		&expr.TProxy{Family: f.proto, TableFamily: unix.NFPROTO_INET, RegAddr: 1, RegPort: 2},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}
}

// match compares what load puts into register 1.
func match(load expr.Any, data []byte) []expr.Any {
	return []expr.Any{load, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}}
}
