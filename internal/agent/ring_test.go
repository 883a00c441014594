package agent

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestRingKeepsTheLastBytes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var ring ring
	var all []byte
	for range 500 {
		p := make([]byte, r.IntN(3000))
		if r.IntN(50) == 0 {
			p = make([]byte, ringSize+r.IntN(1000))
		}
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		all = append(all, p...)
		if n, err := ring.Write(p); n != len(p) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
		want := all[max(0, len(all)-ringSize):]
		if got := ring.last(ringSize); !bytes.Equal(got, want) {
			t.Fatalf("after %d bytes: the last %d differ", len(all), len(want))
		}
		if got := ring.last(10); !bytes.Equal(got, want[max(0, len(want)-10):]) {
			t.Fatalf("after %d bytes: the last 10 differ", len(all))
		}
	}
}
