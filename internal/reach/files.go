package reach

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/bightdev/bight/internal/stream"
)

// FileSet is the files of one mount. Kubelet's layout comes through: a directory
// per version, the link "..data" to the present one, and a link through that for
// each name.
type FileSet struct {
	Path    string // of the mount
	Entries []File // directories before what is in them
	LeftOut []LeftOut
}

// File is one entry of a FileSet.
type File struct {
	// Name is relative to the mount, with slashes, and may have any other bytes.
	// It is "." for a mount that is a single file.
	Name    string
	Mode    fs.FileMode // permissions, and whether it is a directory or a link
	Content []byte      // of a file
	Target  string      // of a link
}

// LeftOut is something that is not sent, and why.
type LeftOut struct{ Path, Why string }

// filesRequest is what the header asks for.
type filesRequest struct {
	Mounts []string `json:"mounts"`
	Watch  bool     `json:"watch"`
}

// Frames of the files' stream.
const (
	fileMount   = 'm' // the mount's path
	fileEntry   = 'e' // uint32 mode, uint16 length of the name, name, content or target
	fileLeftOut = 'x' // uint16 length of the path, path, why
	fileEnd     = 'z' // of the mount
	fileDone    = 's' // of the snapshot

	fileFrameHeader = 5
	maxFileName     = 4 << 10
	maxFileSize     = 16 << 20
	maxFileFrame    = maxFileSize + 6 + maxFileName
	maxEntries      = 64 << 10
	// maxSnapshot is what the laptop takes, whatever the agent's limits are.
	maxSnapshot = 80 << 20
)

// WatchFiles calls each with the files of mounts, of all that are copied if none
// is named, and again with those that have changed whenever kubelet has changed
// them. It returns when ctx is over, with an error of each, or when the stream
// breaks.
func WatchFiles(ctx context.Context, open Opener, mounts []string, each func([]FileSet) error) error {
	return getFiles(ctx, open, filesRequest{Mounts: mounts, Watch: true}, each)
}

// GetFiles returns the files of mounts, of all that are copied if none is named.
func GetFiles(ctx context.Context, open Opener, mounts []string) ([]FileSet, error) {
	var sets []FileSet
	err := getFiles(ctx, open, filesRequest{Mounts: mounts}, func(s []FileSet) error {
		sets = s
		return nil
	})
	return sets, err
}

func getFiles(ctx context.Context, open Opener, r filesRequest, each func([]FileSet) error) error {
	header, err := json.Marshal(r)
	if err != nil {
		return err
	}
	st, err := open.Open(ctx, append([]byte(headerFiles), header...))
	if err != nil {
		return fmt.Errorf("ask for the pod's files: %w", err)
	}
	defer st.Reset(stream.CodeAborted)
	defer context.AfterFunc(ctx, func() { st.Reset(stream.CodeAborted) })()
	for {
		sets, err := readSnapshot(st)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("read the pod's files: %w", refusedBy(err))
		}
		if err := each(sets); err != nil || !r.Watch {
			return err
		}
	}
}

var errFiles = errors.New("the files are sent in a way that is not understood")

func filesError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errFiles, fmt.Sprintf(format, args...))
}

// readSnapshot decodes one snapshot.
func readSnapshot(r io.Reader) ([]FileSet, error) {
	var sets []FileSet
	var open bool // the last set
	var size, entries int
	for {
		kind, body, err := readFileFrame(r)
		if err != nil {
			return nil, err
		}
		if size, entries = size+len(body), entries+1; size > maxSnapshot || entries > maxEntries {
			return nil, filesError("more than %d bytes or %d entries", maxSnapshot, maxEntries)
		}
		if open == (kind == fileMount || kind == fileDone) {
			return nil, filesError("frame %q out of turn", kind)
		}
		switch kind {
		case fileDone:
			return sets, nil
		case fileMount:
			sets, open = append(sets, FileSet{Path: string(body)}), true
		case fileEnd:
			open = false
		default:
			if err := sets[len(sets)-1].take(kind, body); err != nil {
				return nil, err
			}
		}
	}
}

func readFileFrame(r io.Reader) (kind byte, body []byte, err error) {
	var head [fileFrameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	n := int64(binary.BigEndian.Uint32(head[1:]))
	if n > maxFileFrame {
		return 0, nil, filesError("a frame of %d bytes", n)
	}
	var b bytes.Buffer // grows with what really comes
	if _, err := io.CopyN(&b, r, n); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return head[0], b.Bytes(), nil
}

// take adds what a frame has.
func (s *FileSet) take(kind byte, body []byte) error {
	switch kind {
	case fileEntry:
		if len(body) < 6 {
			return filesError("a short entry")
		}
		f := File{Mode: unixMode(binary.BigEndian.Uint32(body))}
		name, rest, err := cutName(body[4:])
		if err != nil {
			return err
		}
		if f.Name = name; !validName(name) {
			return filesError("an entry with the name %.100q", name)
		}
		switch f.Mode.Type() {
		case 0:
			f.Content = rest
		case fs.ModeSymlink:
			f.Target = string(rest)
		case fs.ModeDir:
		default:
			return filesError("an entry of mode %v", f.Mode)
		}
		s.Entries = append(s.Entries, f)
	case fileLeftOut:
		name, why, err := cutName(body)
		if err != nil {
			return err
		}
		s.LeftOut = append(s.LeftOut, LeftOut{name, strings.ToValidUTF8(string(why), "?")})
	default:
		return filesError("frame %q", kind)
	}
	return nil
}

func cutName(b []byte) (name string, rest []byte, err error) {
	if len(b) < 2 {
		return "", nil, filesError("a short frame")
	}
	n := int(binary.BigEndian.Uint16(b))
	if b = b[2:]; n > len(b) || n > maxFileName {
		return "", nil, filesError("a name of %d bytes", n)
	}
	return string(b[:n]), b[n:], nil
}

// validName allows what is below the mount, and "." for the mount itself.
func validName(name string) bool {
	if name == "." {
		return true
	}
	if strings.ContainsRune(name, 0) {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

// Types of files in st_mode.
const (
	typeMask = 0o170000
	typeDir  = 0o040000
	typeFile = 0o100000
	typeLink = 0o120000
)

func unixMode(n uint32) fs.FileMode {
	m := fs.FileMode(n & 0o777)
	switch n & typeMask {
	case typeFile:
	case typeDir:
		m |= fs.ModeDir
	case typeLink:
		m |= fs.ModeSymlink
	default:
		m |= fs.ModeIrregular
	}
	return m
}

func appendUnixMode(b []byte, m fs.FileMode) []byte {
	n := uint32(m.Perm())
	switch m.Type() {
	case fs.ModeDir:
		n |= typeDir
	case fs.ModeSymlink:
		n |= typeLink
	default:
		n |= typeFile
	}
	return binary.BigEndian.AppendUint32(b, n)
}

// writeSet encodes a set. w keeps the error until it is flushed.
func writeSet(w *bufio.Writer, s FileSet) {
	writeFileFrame(w, fileMount, []byte(s.Path))
	for _, f := range s.Entries {
		head := appendUnixMode(nil, f.Mode)
		head = append(binary.BigEndian.AppendUint16(head, uint16(len(f.Name))), f.Name...)
		writeFileFrame(w, fileEntry, head, f.Content, []byte(f.Target))
	}
	for _, l := range s.LeftOut {
		head := append(binary.BigEndian.AppendUint16(nil, uint16(len(l.Path))), l.Path...)
		writeFileFrame(w, fileLeftOut, head, []byte(l.Why))
	}
	writeFileFrame(w, fileEnd)
}

// writeFileFrame writes a frame; w keeps the error until it is flushed.
func writeFileFrame(w *bufio.Writer, kind byte, parts ...[]byte) {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	_, _ = w.Write(binary.BigEndian.AppendUint32([]byte{kind}, uint32(n)))
	for _, p := range parts {
		_, _ = w.Write(p)
	}
}
