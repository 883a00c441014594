package jail

import (
	"encoding/binary"
	"time"
)

// What must be known of a DNS message (RFC 1035): where its questions end, how
// long it is valid, and how long an answer may be.

const (
	dnsHeader   = 12
	typeSOA     = 6
	typeOPT     = 41
	rcodeOK     = 0
	rcodeFailed = 2
	rcodeNoName = 3
)

// record is a resource record's place in a message.
type record struct {
	typ, class uint16
	ttlAt      int
	data       []byte
	answer     bool // of the answer section
}

// walk visits the records of a message. It returns where the questions end and
// whether the message is well formed.
func walk(message []byte, visit func(record)) (int, bool) {
	if len(message) < dnsHeader {
		return 0, false
	}
	count := func(i int) int { return int(binary.BigEndian.Uint16(message[4+2*i:])) }
	at := dnsHeader
	for range count(0) {
		end, ok := skipName(message, at)
		if !ok || end+4 > len(message) {
			return 0, false
		}
		at = end + 4
	}
	questions := at
	for i := range count(1) + count(2) + count(3) {
		end, ok := skipName(message, at)
		if !ok || end+10 > len(message) {
			return questions, false
		}
		size := int(binary.BigEndian.Uint16(message[end+8:]))
		if end+10+size > len(message) {
			return questions, false
		}
		visit(record{
			typ: binary.BigEndian.Uint16(message[end:]), class: binary.BigEndian.Uint16(message[end+2:]),
			ttlAt: end + 4, data: message[end+10 : end+10+size], answer: i < count(1),
		})
		at = end + 10 + size
	}
	return questions, true
}

// skipName returns where the name at ends. A pointer is a name's last part.
func skipName(message []byte, at int) (int, bool) {
	for at < len(message) {
		switch n := int(message[at]); {
		case n == 0:
			return at + 1, true
		case n&0xc0 == 0xc0:
			return at + 2, at+2 <= len(message)
		case n&0xc0 != 0:
			return 0, false
		default:
			at += 1 + n
		}
	}
	return 0, false
}

// lifetime returns how long a message may be given again and where its times to
// live are. Truncated messages and failures are not for keeping; that there is no
// such name or record is, as long as the zone's SOA says (RFC 2308).
func lifetime(message []byte) (age time.Duration, ttls []int, ok bool) {
	shortest, found, answers := uint32(0), false, 0
	consider := func(ttl uint32) {
		if !found || ttl < shortest {
			shortest, found = ttl, true
		}
	}
	negative := false
	_, ok = walk(message, func(r record) {
		if r.typ == typeOPT {
			return // its field has another meaning
		}
		ttl := binary.BigEndian.Uint32(message[r.ttlAt:])
		ttls = append(ttls, r.ttlAt)
		consider(ttl)
		if r.answer {
			answers++
		} else if r.typ == typeSOA && len(r.data) >= 4 {
			negative = true
			consider(binary.BigEndian.Uint32(r.data[len(r.data)-4:]))
		}
	})
	rcode := message[min(3, len(message)-1)] & 0xf
	truncated := len(message) > 2 && message[2]&2 != 0
	if !ok || !found || truncated || (rcode != rcodeOK && rcode != rcodeNoName) || (answers == 0 && !negative) {
		return 0, nil, false
	}
	return time.Duration(shortest) * time.Second, ttls, true
}

// udpSize is how long an answer to query may be over UDP.
func udpSize(query []byte) int {
	size := maxUDPAnswer
	walk(query, func(r record) {
		if r.typ == typeOPT {
			size = max(size, int(r.class))
		}
	})
	return size
}

// fit is the message, or what is left of one that is too long: its header and
// questions, marked as truncated, upon which the asker comes again over TCP.
func fit(message []byte, size int) []byte {
	if len(message) <= size {
		return message
	}
	questions, _ := walk(message, func(record) {})
	if questions == 0 || questions > size {
		questions = dnsHeader
	}
	out := append([]byte{}, message[:questions]...)
	out[2] |= 2
	if questions == dnsHeader {
		clear(out[4:6])
	}
	clear(out[6:12])
	return out
}

// failure answers query with SERVFAIL.
func failure(query []byte) []byte {
	questions, _ := walk(query, func(record) {})
	if questions == 0 {
		questions = dnsHeader
	}
	out := append([]byte{}, query[:questions]...)
	out[2] = out[2]&0x79 | 0x80 // an answer; opcode and RD as asked
	out[3] = 0x80 | rcodeFailed
	if questions == dnsHeader {
		clear(out[4:6])
	}
	clear(out[6:12])
	return out
}
