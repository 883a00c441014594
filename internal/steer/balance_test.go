package steer

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// checkBalance takes turns and compares each prefix with the shares.
func checkBalance(t *testing.T, b *Balance, weights []Weight, turns int) {
	t.Helper()
	k := int64(0)
	for _, w := range weights {
		if w > 0 {
			k++
		}
	}
	bound := int64(All) // 1 - 1/(2k-2) turns
	if bound = 0; k > 1 {
		bound = int64(All) - int64(All)/(2*(k-1))
	}
	had := make([]int64, len(weights))
	for n := int64(1); n <= int64(turns); n++ {
		had[b.Next()]++
		for i, w := range weights {
			if off := had[i]*int64(All) - n*int64(w); max(off, -off) > bound {
				t.Fatalf("weights %v: after %d turns, %d has had %d: off by %.3f, at most %.3f are allowed", weights, n, i, had[i], float64(off)/float64(All), float64(bound)/float64(All))
			}
			if w == 0 && had[i] > 0 {
				t.Fatalf("weights %v: %d had a turn", weights, i)
			}
		}
	}
}

// shares makes weights of any numbers.
func shares(parts []uint16) []Weight {
	left := All
	var all []Weight
	for _, p := range parts {
		w := Weight(p) % (left + 1)
		all = append(all, w)
		left -= w
	}
	return append(all, left)
}

func TestBalanceIsExactInEveryPrefix(t *testing.T) {
	for _, weights := range [][]Weight{{All}, {0, All}, {1, 9999}, {100, 9900}, {500, 9500}, {5000, 5000}, {9999, 1}, {3333, 3333, 3334}, {1, 0, 4999, 5000}} {
		checkBalance(t, NewBalance(weights...), weights, 30000)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		parts := make([]uint16, 1+r.IntN(maxVersions-1))
		for i := range parts {
			parts[i] = uint16(r.IntN(1 << 16))
		}
		if weights := shares(parts); true {
			r.Shuffle(len(weights), func(i, j int) { weights[i], weights[j] = weights[j], weights[i] })
			checkBalance(t, NewBalance(weights...), weights, 2000)
		}
	}
}

// A change begins evenly: each run of turns with the same weights keeps the bound.
func FuzzBalance(f *testing.F) {
	f.Add(uint16(500), uint16(0), uint16(3), uint16(100))
	f.Add(uint16(1), uint16(9999), uint16(0), uint16(65535))
	f.Fuzz(func(t *testing.T, a, b, c, turns uint16) {
		for _, parts := range [][]uint16{{a}, {a, b}, {c, a, b}, {b, c}} {
			weights := shares(parts)
			checkBalance(t, NewBalance(weights...), weights, int(turns%4096))
		}
	})
}

func TestPointsAreEven(t *testing.T) {
	var tenths [10]int
	for i := range 100000 {
		tenths[point("cart", "user-"+string(rune('a'+i%26))+Weight(i).String())/1000]++
	}
	if slices.Min(tenths[:]) < 9500 || slices.Max(tenths[:]) > 10500 {
		t.Errorf("points by tenths: %v", tenths)
	}
}

func TestWeightsAreTold(t *testing.T) {
	for w, want := range map[Weight]string{0: "0%", 1: "0.01%", 50: "0.5%", 500: "5%", 9999: "99.99%", All: "100%"} {
		if got := w.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
