// Package tree describes a set of files by path, mode and content hash, tells
// how two sets differ, and reads one from a directory.
//
// The main type is [Tree]. Image building, live update and the agent inside
// the pod all speak of files in these terms, so "in sync" has one meaning: the
// two trees have the same [Tree.Digest]. The package imports the standard
// library only (it is part of the agent). A Tree is a plain map: share it read
// only.
package tree

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io/fs"
	"maps"
	"slices"
)

// Hash is a SHA-256.
type Hash [sha256.Size]byte

// String returns the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Short returns the first 12 hexadecimal digits, for people.
func (h Hash) Short() string { return h.String()[:12] }

// IsZero reports whether h was never set.
func (h Hash) IsZero() bool { return h == Hash{} }

// MarshalText and UnmarshalText write and read hexadecimal.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(b []byte) error {
	_, err := hex.Decode(h[:], bytes.TrimSpace(b))
	return err
}

// Entry is one file, directory or symbolic link of a [Tree].
type Entry struct {
	// Mode has the type bits (none, fs.ModeDir or fs.ModeSymlink) and, for files
	// and directories, the permission bits.
	Mode fs.FileMode
	Size int64  // bytes of a file
	Hash Hash   // of a file's content
	Link string // target of a symbolic link, as it stands

	// Local is where the content can be read on this machine: an absolute path.
	// It is no part of the entry's identity and never leaves the machine.
	Local string `json:",omitempty"`
}

// Same reports whether a and b are the same to a program that looks at them.
func (e Entry) Same(b Entry) bool {
	e.Local, b.Local = "", ""
	return e == b
}

// Tree maps a path to what is there. Paths are relative, slash separated, clean
// and never start with "../"; their bytes are what the file system has, be they
// UTF-8 or not. Directories are listed only when their mode differs from 0755 or
// they are empty: a listed file implies its parents.
type Tree map[string]Entry

// Paths returns the sorted paths.
func (t Tree) Paths() []string { return slices.Sorted(maps.Keys(t)) }

// Digest identifies the tree's content: equal digests, equal trees.
func (t Tree) Digest() Hash {
	h := sha256.New()
	var b []byte
	for _, p := range t.Paths() {
		e := t[p]
		b = binary.AppendUvarint(b[:0], uint64(len(p)))
		b = append(b, p...)
		b = binary.AppendUvarint(b, uint64(e.Mode))
		b = binary.AppendUvarint(b, uint64(e.Size))
		b = append(b, e.Hash[:]...)
		b = binary.AppendUvarint(b, uint64(len(e.Link)))
		b = append(b, e.Link...)
		h.Write(b)
	}
	return Hash(h.Sum(nil))
}

// Diff is what turns one tree into another.
type Diff struct {
	Put    []string // paths that are new or different, sorted
	Delete []string // paths that are gone, sorted
}

// Compare returns what turns have into want.
func Compare(have, want Tree) Diff {
	var d Diff
	for p, e := range want {
		if h, ok := have[p]; !ok || !h.Same(e) {
			d.Put = append(d.Put, p)
		}
	}
	for p := range have {
		if _, ok := want[p]; !ok {
			d.Delete = append(d.Delete, p)
		}
	}
	slices.Sort(d.Put)
	slices.Sort(d.Delete)
	return d
}
