package agent

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/tree"
)

// The manifest lies beside the live tree, so that an agent that starts again
// knows what is there without reading it all. It is a hint: what does not look
// as it says is read.
const (
	manifestName  = "manifest"
	manifestMagic = "bight manifest 1\n"
)

// manifest is a listing, where it came from and who sent it.
type manifest struct {
	listing
	source tree.Hash
	by     string
}

func (m manifest) encode() []byte {
	var b bytes.Buffer
	b.WriteString(manifestMagic)
	b.Write(m.source[:])
	frame := func(p []byte) {
		b.Write(binary.AppendUvarint(nil, uint64(len(p))))
		b.Write(p)
	}
	frame([]byte(m.by))
	var p []byte
	for name, e := range m.tree {
		frame(wire.AppendEntry(p[:0], name, e))
		if e.Mode.IsRegular() {
			st := m.meta[name]
			p = binary.AppendUvarint(p[:0], st.ino)
			p = binary.AppendVarint(p, st.mtime)
			b.Write(p)
		}
	}
	sum := sha256.Sum256(b.Bytes())
	b.Write(sum[:])
	return b.Bytes()
}

var errManifest = errors.New("damaged manifest")

func decodeManifest(b []byte) (manifest, error) {
	m := manifest{listing: newListing(0)}
	n := len(b) - sha256.Size
	if n < len(manifestMagic)+len(m.source) || string(b[:len(manifestMagic)]) != manifestMagic {
		return m, errManifest
	}
	if sha256.Sum256(b[:n]) != [sha256.Size]byte(b[n:]) {
		return m, errManifest
	}
	r := bufio.NewReader(bytes.NewReader(b[len(manifestMagic):n]))
	_, _ = io.ReadFull(r, m.source[:]) // its length is checked above
	frame := func() ([]byte, error) {
		n, err := binary.ReadUvarint(r)
		if err != nil || n > 1<<16 {
			return nil, errManifest
		}
		p := make([]byte, n)
		_, err = io.ReadFull(r, p)
		return p, err
	}
	by, err := frame()
	if err != nil {
		return m, errManifest
	}
	m.by = string(by)
	for {
		if _, err := r.Peek(1); err != nil {
			return m, nil
		}
		p, err := frame()
		if err != nil {
			return m, errManifest
		}
		err = wire.DecodeEntries(p, func(name string, e tree.Entry) error {
			m.tree[name] = e
			if !e.Mode.IsRegular() {
				return nil
			}
			ino, err := binary.ReadUvarint(r)
			if err != nil {
				return errManifest
			}
			mtime, err := binary.ReadVarint(r)
			m.meta[name] = meta{mode: e.Mode, size: e.Size, mtime: mtime, ino: ino}
			return err
		})
		if err != nil {
			return m, fmt.Errorf("%w: %w", errManifest, err)
		}
	}
}
