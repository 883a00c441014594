package agent

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/tree"
)

// BenchmarkBurst applies a patch with 5,000 small new files, in memory.
func BenchmarkBurst(b *testing.B) {
	want := tree.Tree{}
	var puts, content []byte
	for i := range 5000 {
		text := bytes.Repeat([]byte(fmt.Sprint(i, " ")), 100)
		name := fmt.Sprintf("d%02d/f%04d.txt", i/100, i)
		e := tree.Entry{Mode: 0o644, Size: int64(len(text)), Hash: sha256.Sum256(text)}
		want[name] = e
		puts = wire.AppendPut(puts, wire.Put{Path: name, Entry: e})
		content = append(content, text...)
	}
	patch := append(puts, content...)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		b.StopTimer()
		live, err := os.MkdirTemp("/dev/shm", "burst")
		if err != nil {
			b.Fatal(err)
		}
		s := &store{root: b.TempDir(), live: live, log: slog.New(slog.DiscardHandler)}
		if err := s.open(); err != nil {
			b.Fatal(err)
		}
		now, err := s.now()
		if err != nil {
			b.Fatal(err)
		}
		head := wire.PatchHeader{Base: now.digest, Target: want.Digest(), Puts: len(want)}
		b.StartTimer()
		_, err = s.apply(b.Context(), head, "test", bufio.NewReader(bytes.NewReader(patch)), func() error { return nil })
		b.StopTimer()
		if err != nil {
			b.Fatal(err)
		}
		s.close()
		if err := os.RemoveAll(live); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
