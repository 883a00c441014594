package steer

import (
	"math"
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
	had := make([]int64, len(weights))
	for n := int64(1); n <= int64(turns); n++ {
		had[b.Next()]++
		for i, w := range weights {
			off := had[i]*int64(All) - n*int64(w)
			if off = max(off, -off); off > 0 && off >= (k-1)*int64(All) {
				t.Fatalf("weights %v: after %d turns, %d has had %d: off by %.3f, less than %d is allowed", weights, n, i, had[i], float64(off)/float64(All), k-1)
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

// Each turn by itself goes to a version with the probability of its weight, wherever
// it is among the others: what a judge of versions supposes.
func TestEachTurnIsDrawn(t *testing.T) {
	const turns, runs = 60, 20000
	for _, weights := range [][]Weight{{9500, 500}, {5000, 5000}, {3300, 6700}, {500, 3000, 6500}} {
		had := make([][]int, turns)
		for i := range had {
			had[i] = make([]int, len(weights))
		}
		for range runs {
			b := NewBalance(weights...)
			for i := range turns {
				had[i][b.Next()]++
			}
		}
		for i := range had {
			for v, w := range weights {
				p := float64(w) / float64(All)
				off := (float64(had[i][v]) - p*runs) / math.Sqrt(p*(1-p)*runs)
				if math.Abs(off) > 6 { // of which one in a billion is
					t.Errorf("weights %v: turn %d went to %d in %d of %d runs, off by %.1f standard deviations", weights, i, v, had[i][v], runs, off)
				}
			}
		}
	}
}

// Somebody whose requests come in step with the turns gets a share like everybody.
func TestWhoComesInStepGetsAShareToo(t *testing.T) {
	for _, weights := range [][]Weight{{9500, 500}, {5000, 5000}, {9000, 1000}} {
		period := int(All / weights[1])
		b := NewBalance(weights...)
		had, of := 0, 0
		for i := range period * 5000 {
			if v := b.Next(); i%period == 0 {
				had, of = had+v, of+1
			}
		}
		p := float64(weights[1]) / float64(All)
		if off := (float64(had) - p*float64(of)) / math.Sqrt(p*(1-p)*float64(of)); math.Abs(off) > 6 {
			t.Errorf("weights %v: of every %dth turn, %d of %d went to the second", weights, period, had, of)
		}
	}
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
