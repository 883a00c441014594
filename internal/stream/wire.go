package stream

import (
	"encoding/binary"
	"fmt"
)

// A frame is an eight byte header and a payload:
//
//	type (1) | length of the payload (3, big endian) | stream (4, big endian)
//
// Frames below unsequenced count in the position that resumption speaks of;
// the others belong to one transport and are never repeated.
type frameType uint8

const (
	frameOpen   frameType = 1 // the opener's header bytes
	frameData   frameType = 2 // bytes
	frameWindow frameType = 3 // uint32: how much more the receiver of the frame may send
	frameFin    frameType = 4 // empty: the sender writes no more
	frameStop   frameType = 5 // uint32 code: the sender reads no more
	frameReset  frameType = 6 // uint32 code: the sender neither reads nor writes any more
	frameGoAway frameType = 7 // empty: the sender has closed the session

	unsequenced frameType = 0x80
	frameAck    frameType = 0x81 // uint64: position up to which everything was received
	framePing   frameType = 0x82 // uint64: any number, to be sent back
	framePong   frameType = 0x83 // uint64: the number of the ping
)

const (
	headerSize = 8
	maxPayload = 64 << 10
	// fullPayload is what is sent at most: with its header it is a round number of
	// bytes. Relays read 32 KiB at a time, and what is left over goes on by itself, at
	// the price of a full one.
	fullPayload = maxPayload - headerSize
	// maxOpenHeader bounds the header bytes of a stream.
	maxOpenHeader = 32 << 10
)

// BulkWrite is how much who has many bytes should write at once: frames that are
// full, and as many as go to the transport in one piece.
const BulkWrite = 4 * fullPayload

// frame is a decoded header.
type frame struct {
	typ    frameType
	stream uint32
	length int
}

// put writes the header to the first headerSize bytes of b.
func (f frame) put(b []byte) {
	binary.BigEndian.PutUint32(b, uint32(f.typ)<<24|uint32(f.length))
	binary.BigEndian.PutUint32(b[4:], f.stream)
}

// parseFrame decodes and checks a header.
func parseFrame(b [headerSize]byte) (frame, error) {
	v := binary.BigEndian.Uint32(b[:])
	f := frame{
		typ:    frameType(v >> 24),
		stream: binary.BigEndian.Uint32(b[4:]),
		length: int(v & 0xffffff),
	}
	want, known := payloadSize(f.typ)
	switch {
	case !known:
		return f, protocolError("frame of unknown type %#x", uint8(f.typ))
	case want >= 0 && f.length != want, f.typ == frameOpen && f.length > maxOpenHeader, f.length > maxPayload:
		return f, protocolError("frame of type %#x with %d bytes", uint8(f.typ), f.length)
	case (f.stream != 0) != f.typ.hasStream():
		return f, protocolError("frame of type %#x on stream %d", uint8(f.typ), f.stream)
	}
	return f, nil
}

// payloadSize returns the length of the payload of frames of type t, -1 when it
// varies.
func payloadSize(t frameType) (size int, known bool) {
	switch t {
	case frameOpen, frameData:
		return -1, true
	case frameFin, frameGoAway:
		return 0, true
	case frameWindow, frameStop, frameReset:
		return 4, true
	case frameAck, framePing, framePong:
		return 8, true
	}
	return 0, false
}

func (t frameType) hasStream() bool { return t < unsequenced && t != frameGoAway }

func (t frameType) sequenced() bool { return t < unsequenced }

// appendUint64Frame appends an unsequenced frame.
func appendUint64Frame(b []byte, t frameType, v uint64) []byte {
	var h [headerSize]byte
	frame{typ: t, length: 8}.put(h[:])
	return binary.BigEndian.AppendUint64(append(b, h[:]...), v)
}

func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}
