package repo

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// maxPacket is the longest packet line with its length.
const maxPacket = 65520

// errFlush is what readPacket returns for the packet that ends a list.
var errFlush = errors.New("flush packet")

// readPacket reads one packet line of git's protocol, or errFlush.
func readPacket(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size, err := strconv.ParseUint(string(head[:]), 16, 16)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q is no length of a packet", head[:])
	case size == 0:
		return nil, errFlush
	case size < 4 || size > maxPacket:
		return nil, fmt.Errorf("a packet can't have length %d", size)
	}
	body := make([]byte, size-4)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, noEOF(err)
	}
	return body, nil
}

// noEOF returns err, where io.EOF would say that nothing is amiss.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// writePacket writes one packet line.
func writePacket(w io.Writer, body string) error {
	if len(body) > maxPacket-4 {
		return fmt.Errorf("a packet of %d bytes is too long", len(body))
	}
	_, err := fmt.Fprintf(w, "%04x%s", len(body)+4, body)
	return err
}

// writeFlush ends a list of packet lines.
func writeFlush(w io.Writer) error {
	_, err := io.WriteString(w, "0000")
	return err
}

// readList reads packet lines up to the flush packet, without the newlines that may end them.
func readList(r io.Reader, limit int) ([]string, error) {
	var lines []string
	for size := 0; ; {
		line, err := readPacket(r)
		if errors.Is(err, errFlush) {
			return lines, nil
		}
		if err != nil {
			return nil, noEOF(err)
		}
		if size += len(line) + 4; size > limit {
			return nil, &TooLargeError{What: "the list of refs and options of the push", Size: -1, Limit: int64(limit)}
		}
		lines = append(lines, string(bytes.TrimSuffix(line, []byte("\n"))))
	}
}
