package steer

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Weight is a share of requests, in hundredths of a percent.
type Weight int

// All is the weight of a version that has every request.
const All Weight = 10000

// String tells a weight in percent.
func (w Weight) String() string {
	s := fmt.Sprintf("%d.%02d", w/100, w%100)
	return strings.TrimRight(strings.TrimRight(s, "0"), ".") + "%"
}

// Balance hands out turns by weights, exactly: after any number of turns, each has
// had its share of them, give or take 1 - 1/(2k-2) of a turn, where k is how many
// have a weight. For two that is half a turn. Who has no weight gets no turn. It is
// the schedule of Tijdeman, The chairman assignment problem, 1980: of those whose
// turn may come already, it comes to the one that can wait the least. It is not safe
// for concurrent use.
type Balance struct {
	weights []Weight
	due     []int64 // turns that each is owed, times All
	sharing int64   // how many have a weight
}

// NewBalance begins evenly. The weights have to come to All together.
func NewBalance(weights ...Weight) *Balance {
	b := &Balance{weights: slices.Clone(weights), due: make([]int64, len(weights))}
	for _, w := range weights {
		if w > 0 {
			b.sharing++
		}
	}
	return b
}

// Next tells whose turn it is.
func (b *Balance) Next() int {
	best := -1
	scale := 2 * (b.sharing - 1) // 0 if there is one, which is owed all
	for i, w := range b.weights {
		if w <= 0 {
			continue
		}
		b.due[i] += int64(w)
		if b.due[i]*scale < int64(All) && scale > 0 {
			continue // too early
		}
		if best < 0 || b.patience(i, scale)*int64(b.weights[best]) < b.patience(best, scale)*int64(w) {
			best = i
		}
	}
	b.due[best] -= int64(All)
	return best
}

// patience is how much i may still be owed before it is owed too much.
func (b *Balance) patience(i int, scale int64) int64 {
	return int64(All)*(scale-1) - b.due[i]*scale
}

// point is where a value lies among All, the same for everyone who asks.
func point(salt, value string) int {
	const prime = 1099511628211
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(salt) {
		h = (h ^ uint64(salt[i])) * prime
	}
	h *= prime
	for i := range len(value) {
		h = (h ^ uint64(value[i])) * prime
	}
	h ^= h >> 33 // its low bits are not mixed well
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	return int(h % uint64(All))
}

// parsePoint reads a point that a door has given to a client.
func parsePoint(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n >= uint64(All) {
		return 0, false
	}
	return int(n), true
}
