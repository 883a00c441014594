package delta

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"
)

// mutate returns b after n random edits: replaced, inserted, removed and moved
// stretches.
func mutate(r *rand.Rand, b []byte, n int) []byte {
	b = bytes.Clone(b)
	for range n {
		p := r.IntN(len(b) + 1)
		q := min(len(b), p+r.IntN(200))
		switch r.IntN(4) {
		case 0:
			for i := p; i < q; i++ {
				b[i] = byte(r.Uint32())
			}
		case 1:
			b = append(b[:p:p], append(noise(r, r.IntN(100)), b[p:]...)...)
		case 2:
			b = append(b[:p:p], b[q:]...)
		case 3:
			piece := bytes.Clone(b[p:q])
			b = append(b[:p:p], b[q:]...)
			at := r.IntN(len(b) + 1)
			b = append(b[:at:at], append(piece, b[at:]...)...)
		}
	}
	return b
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func encoded(t testing.TB, x *Index, old, new []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := x.Encode(&b, old, new); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func roundTrip(t *testing.T, old, new []byte) []byte {
	t.Helper()
	d := encoded(t, NewIndex(old), old, new)
	var out bytes.Buffer
	r := bufio.NewReader(bytes.NewReader(append(bytes.Clone(d), "next"...)))
	if err := Apply(&out, old, r, int64(len(new))); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), new) {
		t.Fatalf("old %d bytes, new %d bytes: what came out differs", len(old), len(new))
	}
	if rest, err := io.ReadAll(r); err != nil || string(rest) != "next" {
		t.Fatalf("rest after the delta = %q, %v", rest, err)
	}
	return d
}

func TestRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	big := noise(r, 200_000)
	zeros := make([]byte, 50_000)
	for _, tt := range []struct {
		name     string
		old, new []byte
		max      int
	}{
		{"both empty", nil, nil, 0},
		{"from empty", nil, big[:1000], 1010},
		{"to empty", big, nil, 0},
		{"shorter than a word", []byte("abc"), []byte("abd"), 8},
		{"equal", big, big, 8},
		{"truncated", big, big[:1234], 8},
		{"inserted at the start", big, append([]byte("hello"), big...), 600},
		{"moved half", big, append(bytes.Clone(big[100_000:]), big[:100_000]...), 600},
		{"zeros", zeros, zeros[:40_000], 16},
		{"zeros longer", zeros[:100], zeros, 50_100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if d := roundTrip(t, tt.old, tt.new); len(d) > tt.max {
				t.Errorf("delta has %d bytes, want at most %d", len(d), tt.max)
			}
		})
	}
}

func TestRandomEditsRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		old := noise(r, 1+r.IntN(20_000))
		edits := r.IntN(20)
		roundTrip(t, old, mutate(r, old, edits))
	}
}

func TestIndexOfAnotherVersionStillGivesTheWholeFile(t *testing.T) {
	x := NewIndex([]byte("one version"))
	old, new := []byte("other"), []byte("brand new content")
	var out bytes.Buffer
	if err := Apply(&out, old, bytes.NewReader(encoded(t, x, old, new)), int64(len(new))); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != string(new) {
		t.Errorf("got %q, want %q", got, new)
	}
}

func TestApplyRefuses(t *testing.T) {
	old := []byte("0123456789")
	for _, tt := range []struct {
		name  string
		delta []byte
		want  error
	}{
		{"nothing", nil, io.ErrUnexpectedEOF},
		{"short literal", []byte{5, 'a'}, io.ErrUnexpectedEOF},
		{"long literal", []byte{200, 1}, ErrCorrupt},
		{"copy behind the end", []byte{0, 5, 18}, ErrCorrupt},
		{"copy before the start", []byte{0, 5, 1}, ErrCorrupt},
		{"copy longer than the file", []byte{0, 21, 0}, ErrCorrupt},
		{"nothing at all", []byte{0, 0, 0}, ErrCorrupt},
		{"endless number", bytes.Repeat([]byte{0xff}, 20), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := Apply(io.Discard, old, bytes.NewReader(tt.delta), 20)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func FuzzApply(f *testing.F) {
	old := []byte("the quick brown fox jumps over the lazy dog")
	f.Add(encoded(f, NewIndex(old), old, []byte("the quick brown cat jumps")), int64(25))
	f.Fuzz(func(t *testing.T, d []byte, size int64) {
		size = min(max(size, 0), 1<<16)
		var out bytes.Buffer
		if err := Apply(&out, old, bytes.NewReader(d), size); err == nil && int64(out.Len()) != size {
			t.Fatalf("no error and %d bytes instead of %d", out.Len(), size)
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("abcdefghijklmnopqrstuvwxyz"), []byte("abcdefghijklnopqrstuvwxyz!"))
	f.Fuzz(func(t *testing.T, old, new []byte) { roundTrip(t, old, new) })
}

// BenchmarkEncode takes two builds of one program from BIGHT_BENCH_OLD and
// BIGHT_BENCH_NEW, or makes something like them up.
func BenchmarkEncode(b *testing.B) {
	r := rand.New(rand.NewPCG(5, 6))
	old := noise(r, 8<<20)
	new := mutate(r, old, 2000)
	if o, n := os.Getenv("BIGHT_BENCH_OLD"), os.Getenv("BIGHT_BENCH_NEW"); o != "" && n != "" {
		var err1, err2 error
		old, err1 = os.ReadFile(o)
		new, err2 = os.ReadFile(n)
		if err := errors.Join(err1, err2); err != nil {
			b.Fatal(err)
		}
	}
	x := NewIndex(old)
	b.SetBytes(int64(len(new)))
	for b.Loop() {
		if err := x.Encode(io.Discard, old, new); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(encoded(b, x, old, new))), "delta-bytes")
}

func TestBaseThatIsCutShortIsAnError(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	old := noise(rand.New(rand.NewPCG(9, 9)), 1<<20)
	if _, err := f.Write(old); err != nil {
		t.Fatal(err)
	}
	d := encoded(t, NewIndex(old), old, old)
	mapped, release, err := Map(f, int64(len(old)))
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if err := f.Truncate(10_000); err != nil {
		t.Fatal(err)
	}
	err = Guard(func() error { return Apply(io.Discard, mapped, bytes.NewReader(d), int64(len(old))) })
	if !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}

func TestWriterThatFailsEndsTheEncoding(t *testing.T) {
	new := noise(rand.New(rand.NewPCG(9, 10)), 1<<20)
	if err := NewIndex(nil).Encode(failing{}, nil, new); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
