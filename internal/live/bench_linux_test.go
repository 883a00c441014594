package live

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/tree"
)

// bench runs a pod whose process does nothing, with a target that is in sync.
func bench(b *testing.B, files map[string]string) (*pod, *Target, *events) {
	b.Helper()
	p := newPod(b, files)
	p.service = "idle"
	p.start()
	tg, ev := p.target("anna")
	p.want(tg, 1)
	ev.await(b, 0, "first sync", synced(1))
	return p, tg, ev
}

// save wants w and waits until it is there.
func save(b *testing.B, tg *Target, ev *events, seq uint64, t tree.Tree) Event {
	tg.Want(Wanted{Tree: t, Seq: seq})
	done, _ := ev.await(b, 0, "sync", synced(seq))
	ev.mu.Lock()
	ev.all = ev.all[:0]
	ev.mu.Unlock()
	return done
}

// Budget: far below the 20 ms that a person might notice.
func BenchmarkSaveSmallFile(b *testing.B) {
	p, tg, ev := bench(b, map[string]string{"index.html": "<p>", "style.css": "p{}"})
	p.write(p.src, "v0", "<p>0")
	p.write(p.src, "v1", "<p>1")
	versions := readTree(b, p.src)
	trees := []tree.Tree{
		{"index.html": versions["v0"], "style.css": versions["style.css"]},
		{"index.html": versions["v1"], "style.css": versions["style.css"]},
	}
	seq := uint64(1)
	for b.Loop() {
		seq++
		save(b, tg, ev, seq, trees[seq%2])
	}
}

// BenchmarkSaveBinary sends two builds of a program in turn: those that
// BIGHT_BENCH_OLD and BIGHT_BENCH_NEW name, or 8 MB of noise with edits. Budget:
// 25 ms for 8 MB, 120 ms for 50 MB.
func BenchmarkSaveBinary(b *testing.B) {
	dir := b.TempDir()
	old, new := os.Getenv("BIGHT_BENCH_OLD"), os.Getenv("BIGHT_BENCH_NEW")
	if old == "" || new == "" {
		old, new = filepath.Join(dir, "old"), filepath.Join(dir, "new")
		r := rand.New(rand.NewPCG(1, 1))
		content := make([]byte, 8<<20)
		for i := range content {
			content[i] = byte(r.Uint32())
		}
		if err := os.WriteFile(old, content, 0o755); err != nil {
			b.Fatal(err)
		}
		for range 2000 {
			content[r.IntN(len(content))]++
		}
		if err := os.WriteFile(new, content, 0o755); err != nil {
			b.Fatal(err)
		}
	}
	for _, deltas := range []bool{false, true} {
		b.Run(fmt.Sprintf("delta=%v", deltas), func(b *testing.B) {
			p, tg, ev := bench(b, nil)
			var trees []tree.Tree
			for i, local := range []string{old, new} {
				content, err := os.ReadFile(local)
				if err != nil {
					b.Fatal(err)
				}
				d := filepath.Join(p.src, fmt.Sprint(i))
				p.write(d, "app", string(content))
				trees = append(trees, readTree(b, d))
			}
			seq := uint64(1)
			for range 2 {
				seq++
				save(b, tg, ev, seq, trees[seq%2])
			}
			if deltas {
				for _, t := range trees {
					for deadline := time.Now().Add(20 * time.Second); !tg.cfg.Bases.has(t["app"].Hash); {
						if time.Now().After(deadline) {
							b.Fatal("not indexed")
						}
						time.Sleep(time.Millisecond)
					}
				}
			} else {
				tg.cfg.Bases.known = nil
				tg.cfg.Bases.used = 0
			}
			var sum Event
			n := 0
			for b.Loop() {
				seq++
				if !deltas {
					tg.cfg.Bases.mu.Lock()
					tg.cfg.Bases.known = nil
					tg.cfg.Bases.mu.Unlock()
				}
				ev := save(b, tg, ev, seq, trees[seq%2])
				sum.Bytes += ev.Bytes
				sum.Diff += ev.Diff
				sum.Send += ev.Send
				sum.Apply += ev.Apply
				n++
			}
			b.ReportMetric(float64(sum.Bytes)/float64(n), "sent-bytes/op")
			for unit, d := range map[string]time.Duration{"diff": sum.Diff, "send": sum.Send, "apply": sum.Apply} {
				b.ReportMetric(float64(d.Microseconds())/1000/float64(n), unit+"-ms/op")
			}
		})
	}
}

// Budget: at most half of what tar through kubectl exec takes.
func BenchmarkSave5000Files(b *testing.B) {
	p, tg, ev := bench(b, nil)
	var trees []tree.Tree
	for v := range 2 {
		d := filepath.Join(p.src, fmt.Sprint(v))
		for i := range 5000 {
			p.write(d, fmt.Sprintf("d%d/f%d", i%50, i), strings.Repeat(fmt.Sprintf("%d %d\n", v, i), 100))
		}
		trees = append(trees, readTree(b, d))
	}
	seq := uint64(1)
	for b.Loop() {
		seq++
		save(b, tg, ev, seq, trees[seq%2])
	}
}
