package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/bightdev/bight/internal/tree"
)

// archive is a tar file that is not there: the headers, and where the contents
// are. Its size is known without reading anything, it can be read again and
// again, and it is the same whenever and wherever the same tree is packed.
type archive struct {
	parts []part
	size  int64
}

// part is some bytes, or a file of known size.
type part struct {
	bytes []byte
	file  string
	size  int64
}

const tarBlock = 512

func (a *archive) append(p part) {
	a.parts = append(a.parts, p)
	a.size += p.size
}

// header adds a tar header. Times are the epoch.
func (a *archive) header(h *tar.Header) error {
	h.ModTime = time.Unix(0, 0)
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		return fmt.Errorf("pack %q: %w", h.Name, err)
	}
	a.append(part{bytes: b.Bytes(), size: int64(b.Len())})
	return nil
}

func (a *archive) dir(name string, mode int64, owner int) error {
	return a.header(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, Uid: owner, Gid: owner})
}

func (a *archive) file(name string, mode int64, owner int, content part) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: content.size, Uid: owner, Gid: owner}
	if err := a.header(h); err != nil {
		return err
	}
	a.append(content)
	a.pad(-content.size & (tarBlock - 1))
	return nil
}

func (a *archive) pad(n int64) {
	if n > 0 {
		a.append(part{bytes: make([]byte, n), size: n})
	}
}

// end adds the two empty blocks that end a tar file.
func (a *archive) end() { a.pad(2 * tarBlock) }

// packTree packs t below root (without a leading slash, "" for the image's own), with
// all of the directories above it.
func packTree(t tree.Tree, root string, owner int) (*archive, error) {
	a := &archive{}
	above := ""
	elems := strings.Split(root, "/")
	if root == "" {
		elems = nil
	}
	for i, elem := range elems {
		above = path.Join(above, elem)
		dirOwner := 0
		if i == len(elems)-1 {
			dirOwner = owner
		}
		if err := a.dir(above, 0o755, dirOwner); err != nil {
			return nil, err
		}
	}
	made := map[string]bool{".": true}
	for _, p := range t.Paths() {
		if strings.HasPrefix(path.Base(p), ".wh.") {
			return nil, fmt.Errorf("pack %q: an image can't have a file whose name starts with .wh. (it would delete another one): rename it or add it to .dockerignore", p)
		}
		if err := a.parents(made, root, path.Dir(p), owner); err != nil {
			return nil, err
		}
		if err := a.entry(path.Join(root, p), t[p], owner); err != nil {
			return nil, err
		}
		made[p] = made[p] || t[p].Mode.IsDir()
	}
	a.end()
	return a, nil
}

func (a *archive) parents(made map[string]bool, root, dir string, owner int) error {
	if made[dir] {
		return nil
	}
	if err := a.parents(made, root, path.Dir(dir), owner); err != nil {
		return err
	}
	made[dir] = true
	return a.dir(path.Join(root, dir), 0o755, owner)
}

func (a *archive) entry(name string, e tree.Entry, owner int) error {
	switch e.Mode.Type() {
	case fs.ModeDir:
		return a.dir(name, int64(e.Mode.Perm()), owner)
	case fs.ModeSymlink:
		return a.header(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: e.Link, Mode: 0o777, Uid: owner, Gid: owner})
	}
	return a.file(name, int64(e.Mode.Perm()), owner, part{file: e.Local, size: e.Size})
}

// open returns a reader of the tar file, which the caller closes.
func (a *archive) open() io.ReadCloser { return &archiveReader{parts: a.parts} }

type archiveReader struct {
	parts []part
	now   io.Reader // the part that is being read
	left  int64     // bytes that it still owes
	file  *os.File
}

func (r *archiveReader) Read(b []byte) (int, error) {
	for {
		if r.now == nil {
			if len(r.parts) == 0 {
				return 0, io.EOF
			}
			if err := r.next(); err != nil {
				return 0, err
			}
		}
		n, err := r.now.Read(b[:min(int64(len(b)), r.left)])
		r.left -= int64(n)
		if r.left == 0 {
			if err := r.Close(); err != nil {
				return n, err
			}
			r.now = nil
		} else if err != nil {
			if err == io.EOF && r.file != nil {
				err = fmt.Errorf("%s became shorter while it was being read: save it again", r.file.Name())
			}
			return n, err
		}
		if n > 0 {
			return n, nil
		}
	}
}

func (r *archiveReader) next() error {
	p := r.parts[0]
	r.parts, r.left = r.parts[1:], p.size
	if p.file == "" {
		r.now = bytes.NewReader(p.bytes)
		return nil
	}
	f, err := os.Open(p.file)
	if err != nil {
		return err
	}
	r.now, r.file = f, f
	return nil
}

func (r *archiveReader) Close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}

// Compression is how a layer is stored and moved.
type Compression string

// Ways of [Compression]. A registry on the same machine is fed fastest with
// plain layers: reading and hashing a program of 50 MB takes a tenth of the time
// of the fastest compressor on it.
const (
	Plain Compression = ""
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
)

func (c Compression) mediaType() (types.MediaType, error) {
	switch c {
	case Plain:
		return types.OCIUncompressedLayer, nil
	case Gzip:
		return types.OCILayer, nil
	case Zstd:
		return types.OCILayerZStd, nil
	}
	return "", fmt.Errorf("unknown compression %q of layers: use gzip, zstd or none", c)
}

func (c Compression) writer(w io.Writer) (io.WriteCloser, error) {
	if c == Zstd {
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	}
	return gzip.NewWriterLevel(w, gzip.BestSpeed)
}

// layer is a v1.Layer of an archive. Plain, it is streamed from where its files
// are; compressed, from the blob that was made once.
type layer struct {
	archive *archive
	facts   layerFacts
	media   types.MediaType
	blob    string // the compressed file; "" for a plain layer
}

// layerFacts is the record of a layer.
type layerFacts struct {
	Digest v1.Hash   `json:"digest"`
	DiffID v1.Hash   `json:"diffID"`
	Size   int64     `json:"size"`
	Blob   tree.Hash `json:"blob,omitzero"`
}

func (l *layer) Digest() (v1.Hash, error)             { return l.facts.Digest, nil }
func (l *layer) DiffID() (v1.Hash, error)             { return l.facts.DiffID, nil }
func (l *layer) Size() (int64, error)                 { return l.facts.Size, nil }
func (l *layer) MediaType() (types.MediaType, error)  { return l.media, nil }
func (l *layer) Uncompressed() (io.ReadCloser, error) { return l.archive.open(), nil }

// Compressed returns what is moved, be it compressed or not.
func (l *layer) Compressed() (io.ReadCloser, error) {
	if l.blob == "" {
		return l.archive.open(), nil
	}
	return os.Open(l.blob)
}

// layer makes a layer of an archive. The key stands for all that the archive is
// made of: what was found out for it once is never found out again.
func (s *Store) layer(a *archive, key tree.Hash, c Compression) (v1.Layer, error) {
	media, err := c.mediaType()
	if err != nil {
		return nil, err
	}
	l := &layer{archive: a, media: media}
	kind := "layer" + string(c)
	if s.Recall(kind, key, &l.facts) {
		blob := tree.Entry{Mode: 0o644, Size: l.facts.Size, Hash: l.facts.Blob}
		if c == Plain {
			return l, nil
		}
		if s.Holds(&blob) {
			l.blob = blob.Local
			return l, nil
		}
	}
	if c == Plain {
		err = l.measure()
	} else {
		err = l.compress(s, c)
	}
	if err != nil {
		return nil, fmt.Errorf("pack a layer: %w", err)
	}
	var files []string
	if c != Plain {
		files = []string{l.facts.Blob.String()}
	}
	return l, s.Remember(kind, key, l.facts, files)
}

func sha(b []byte) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(b)} }

func (l *layer) measure() error {
	h := sha256.New()
	r := l.archive.open()
	_, err := io.CopyBuffer(struct{ io.Writer }{h}, r, make([]byte, 256<<10))
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	sum := sha(h.Sum(nil))
	l.facts = layerFacts{Digest: sum, DiffID: sum, Size: l.archive.size}
	return nil
}

func (l *layer) compress(s *Store, c Compression) error {
	dir, err := s.Temp()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	f, err := os.OpenFile(filepath.Join(dir, "blob"), os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	plain := sha256.New()
	err = l.compressTo(f, c, plain)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	e, err := s.Put(f.Name())
	if err != nil {
		return err
	}
	l.blob = e.Local
	l.facts = layerFacts{Digest: sha(e.Hash[:]), DiffID: sha(plain.Sum(nil)), Size: e.Size, Blob: e.Hash}
	return nil
}

func (l *layer) compressTo(f io.Writer, c Compression, plain io.Writer) error {
	w, err := c.writer(f)
	if err != nil {
		return err
	}
	r := l.archive.open()
	_, err = io.Copy(io.MultiWriter(w, plain), r)
	return errors.Join(err, r.Close(), w.Close())
}
