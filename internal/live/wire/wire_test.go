package wire

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/tree"
)

var update = flag.Bool("update", false, "write the golden file anew")

func hash(b byte) tree.Hash {
	var h tree.Hash
	for i := range h {
		h[i] = b
	}
	return h
}

func samples() []any {
	return []any{
		Hello{Version: 1, Client: "anna@laptop"},
		State{
			Version: Version, Agent: "v1.2.3", Service: "cart", Change: 9, Digest: hash(1), Source: hash(2), Files: 300, Live: true,
			Clients: []string{"anna", "ben"}, Problem: "none", LastFrom: "ben",
			Process: Process{Phase: Waiting, Pid: 77, Starts: 3, Code: 2, Signal: 9, Pause: time.Second, Tree: hash(3)},
		},
		TreeEnd{Change: 5, Digest: hash(4), Source: hash(5)},
		PatchHeader{Base: hash(6), Target: hash(7), Source: hash(8), Restart: true, Encoding: Zstd, Deletes: 2, Puts: 500},
		Applied{Change: 6, Digest: hash(9), Stage: time.Millisecond, Swap: time.Microsecond, Whole: true, Written: 1 << 40},
		Refused{Code: NoSpace, Path: "a\nb\xff", Text: "no space", Change: 7, Have: hash(10), By: "ben"},
		Event{Kind: Exited, Pid: 5, Code: 1, Signal: 11, After: time.Hour, Pause: time.Minute, Change: 8, Tree: hash(11), By: "x", Output: []byte("panic\n")},
	}
}

func encode(m any) []byte { return m.(interface{ Encode() []byte }).Encode() }

func decode(like any, b []byte) (any, error) {
	switch like.(type) {
	case Hello:
		return DecodeHello(b)
	case State:
		return DecodeState(b)
	case TreeEnd:
		return DecodeTreeEnd(b)
	case PatchHeader:
		return DecodePatchHeader(b)
	case Applied:
		return DecodeApplied(b)
	case Refused:
		return DecodeRefused(b)
	}
	return DecodeEvent(b)
}

func TestMessagesRoundTrip(t *testing.T) {
	for _, want := range samples() {
		b := encode(want)
		got, err := decode(want, b)
		if err != nil {
			t.Errorf("%T: %v", want, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%T: -want +got:\n%s", want, d)
		}
		// Anything shorter or longer is refused.
		for n := range b {
			if _, err := decode(want, b[:n]); !errors.Is(err, ErrFrame) {
				t.Errorf("%T cut to %d of %d bytes: %v", want, n, len(b), err)
			}
		}
		if _, err := decode(want, append(bytes.Clone(b), 0)); !errors.Is(err, ErrFrame) {
			t.Errorf("%T with a byte too many: %v", want, err)
		}
	}
}

// The bytes on the wire change only together with Version.
func TestGoldenBytes(t *testing.T) {
	var b strings.Builder
	fmt.Fprintf(&b, "version %d\n", Version)
	for _, m := range samples() {
		fmt.Fprintf(&b, "%T %s\n", m, hex.EncodeToString(encode(m)))
	}
	entries := AppendEntry(nil, "file", tree.Entry{Mode: 0o644, Size: 5, Hash: hash(1)})
	entries = AppendEntry(entries, "dir", tree.Entry{Mode: fs.ModeDir | 0o700})
	entries = AppendEntry(entries, "link", tree.Entry{Mode: fs.ModeSymlink, Link: "../x"})
	fmt.Fprintf(&b, "entries %s\n", hex.EncodeToString(entries))
	fmt.Fprintf(&b, "put %s\n", hex.EncodeToString(AppendPut(nil, puts[1])))
	var frame bytes.Buffer
	if err := NewWriter(&frame).Send(KindPatch, []byte("body")); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "frame %s\n", hex.EncodeToString(frame.Bytes()))
	const golden = "testdata/golden.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestStateOfAnotherVersion(t *testing.T) {
	got, err := DecodeState([]byte{7, 1, 2, 3})
	if err != nil || got.Version != 7 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestEntriesRoundTrip(t *testing.T) {
	want := tree.Tree{
		"a":                       {Mode: 0o644, Size: 5, Hash: hash(1)},
		"b\nc":                    {Mode: 0, Size: 1 << 50, Hash: hash(2)},
		"\xff\xfe":                {Mode: fs.ModeSymlink, Link: "\x80"},
		"d/e":                     {Mode: fs.ModeDir | 0o711},
		"empty":                   {Mode: 0o600},
		"empty-link":              {Mode: fs.ModeSymlink},
		strings.Repeat("x", 4096): {Mode: 0o777},
	}
	var b []byte
	for p, e := range want {
		b = AppendEntry(b, p, e)
	}
	got := tree.Tree{}
	err := DecodeEntries(b, func(p string, e tree.Entry) error { got[p] = e; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestModesThatNoTreeHasAreRefused(t *testing.T) {
	for _, m := range []fs.FileMode{fs.ModeSetuid | 0o755, fs.ModeDevice, fs.ModeDir | fs.ModeSymlink, fs.ModeNamedPipe, fs.ModeIrregular} {
		b := AppendEntry(nil, "x", tree.Entry{Mode: m})
		if err := DecodeEntries(b, func(string, tree.Entry) error { return nil }); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", m, err)
		}
	}
}

var puts = []Put{
	{Path: "a", Entry: tree.Entry{Mode: 0o644, Size: 3, Hash: hash(1)}},
	{Path: "b\n\xff", Entry: tree.Entry{Mode: 0o755, Size: 3, Hash: hash(1)}, How: Delta, Ref: "old\xfe"},
	{Path: "c", Entry: tree.Entry{Mode: 0o755, Size: 3, Hash: hash(1)}, How: Same, Ref: "a"},
	{Path: "l", Entry: tree.Entry{Mode: fs.ModeSymlink, Link: "x"}},
	{Path: "d", Entry: tree.Entry{Mode: fs.ModeDir | 0o700}},
}

func TestContentRoundTrip(t *testing.T) {
	b := AppendDelete(nil, "gone\xff")
	for _, p := range puts {
		b = AppendPut(b, p)
	}
	c := Content{bufio.NewReader(iotest.OneByteReader(bytes.NewReader(b)))}
	if p, err := c.Delete(); p != "gone\xff" || err != nil {
		t.Errorf("Delete = %q, %v", p, err)
	}
	for _, want := range puts {
		got, err := c.Put()
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
	}
	if _, err := c.Put(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Put after the end: %v", err)
	}
}

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	bodies := [][]byte{nil, []byte("x"), make([]byte, DataSize), make([]byte, MaxFrame)}
	for i, body := range bodies {
		if err := w.Send(Kind(i+1), body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Send(1, make([]byte, MaxFrame+1)); !errors.Is(err, ErrFrame) {
		t.Errorf("too large a frame was sent: %v", err)
	}
	all := bytes.Clone(b.Bytes())
	r := NewReader(&b)
	for i, want := range bodies {
		k, got, err := r.Next()
		if err != nil || k != Kind(i+1) || !bytes.Equal(got, want) {
			t.Fatalf("frame %d: kind %d, %d bytes, %v", i, k, len(got), err)
		}
	}
	if _, _, err := r.Next(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	r = NewReader(bytes.NewReader(all[:len(all)-1]))
	var err error
	for err == nil {
		_, _, err = r.Next()
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("in a frame: %v", err)
	}
	if _, _, err := NewReader(bytes.NewReader([]byte{1, 0xff, 0xff, 0xff, 0x7f})).Next(); !errors.Is(err, ErrFrame) {
		t.Errorf("length that lies: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	for i, m := range samples() {
		f.Add(byte(i), encode(m))
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		like := samples()[int(which)%len(samples())]
		m, err := decode(like, b)
		if err != nil {
			return
		}
		// What was understood means the same when it is said again.
		again, err := decode(like, encode(m))
		if s, ok := m.(State); ok && s.Version != Version {
			return
		}
		if err != nil || !cmp.Equal(m, again) {
			t.Fatalf("%T: %v\n%s", m, err, cmp.Diff(m, again))
		}
	})
}

func FuzzContent(f *testing.F) {
	b := AppendDelete(nil, "x")
	for _, p := range puts {
		b = AppendPut(b, p)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		c := Content{bufio.NewReader(bytes.NewReader(b))}
		if _, err := c.Delete(); err != nil {
			return
		}
		for {
			p, err := c.Put()
			if err != nil {
				return
			}
			again, err := Content{bufio.NewReader(bytes.NewReader(AppendPut(nil, p)))}.Put()
			if err != nil || !cmp.Equal(p, again) {
				t.Fatalf("%v: %s", err, cmp.Diff(p, again))
			}
		}
	})
}

func FuzzReader(f *testing.F) {
	f.Add([]byte{1, 2, 0, 0, 0, 'a', 'b'})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b))
		for {
			if _, _, err := r.Next(); err != nil {
				return
			}
		}
	})
}
