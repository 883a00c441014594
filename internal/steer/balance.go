package steer

import (
	"fmt"
	"math/rand/v2"
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

// Balance hands out turns by weights. After any number of turns, of k versions that
// have a weight, each has had its share of them, give or take less than k-1 turns: for
// two, its share rounded up or down. Whose turn is next is drawn all the same, with a
// probability that is exactly the weight, so that nobody whose requests come in step
// with others is always given to one version. Who has no weight gets no turn. It is
// not safe for concurrent use.
//
// What is drawn is not drawn independently: who knows which turns have gone to whom
// can tell that a version which has just had one is less likely to have the next.
// Among any turns that are picked without that knowledge, the numbers that a version
// gets vary less than by independent draws: the draws are negatively associated
// (Brändén and Jonasson, Negative dependence in sampling, 2012), so what a bet on
// independent draws comes to is an upper bound.
type Balance struct {
	levels []level // one for each version with a weight
}

// level gives its version some of the turns that come to it, and leaves the rest to
// the levels below. It is the ordered pivotal method of Deville and Tillé, Unequal
// probability sampling without replacement through a splitting method, 1998: the turns
// meet one after the other, and of two the one that loses takes over its
// chance to the other, until that is certain.
type level struct {
	version int
	weight  int   // of All, as all numbers here
	of      int   // the weights from here on
	turn    int64 // that is asked about next
	met     int64 // turns that have met
	open    int64 // the one of them that is not decided yet
	chance  int   // its, 0 if there is none
	won     []int64
}

// NewBalance begins evenly. The weights have to come to All together.
func NewBalance(weights ...Weight) *Balance {
	b := &Balance{}
	left := int(All)
	for i, w := range weights {
		if w > 0 {
			b.levels = append(b.levels, level{version: i, weight: int(w), of: left})
			left -= int(w)
		}
	}
	return b
}

// Next tells whose turn it is.
func (b *Balance) Next() int {
	last := len(b.levels) - 1
	for i := range last {
		if l := &b.levels[i]; l.next() {
			return l.version
		}
	}
	return b.levels[last].version
}

// next says whether the next turn is the version's.
func (l *level) next() bool {
	for l.turn >= l.met || l.chance > 0 && l.open == l.turn {
		l.meet()
	}
	now := l.turn
	l.turn++
	if len(l.won) > 0 && l.won[0] == now {
		l.won = l.won[1:]
		return true
	}
	return false
}

// meet lets one more turn meet the one that is open.
func (l *level) meet() {
	turn := l.met
	l.met++
	sum := l.chance + l.weight
	switch {
	case l.chance == 0:
		l.open, l.chance = turn, l.weight
	case sum < l.of: // one of them is out
		if rand.IntN(sum) >= l.chance {
			l.open = turn
		}
		l.chance = sum
	default: // one of them has won, and the other goes on
		winner := turn
		if rand.IntN(2*l.of-sum) < l.of-l.weight {
			winner, l.open = l.open, turn
		}
		l.chance = sum - l.of
		i, _ := slices.BinarySearch(l.won, winner)
		l.won = slices.Insert(l.won, i, winner)
	}
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
