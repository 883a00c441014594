package replay

import (
	"errors"
	"fmt"
)

// Tried is what a commit turned out to be.
type Tried int

// Values of Tried.
const (
	IsGood    Tried = iota // it passes
	IsBad                  // a request fails
	IsUnknown              // it can't be told: it does not build, for example
)

// ErrUnclear says that the first bad commit is one of those that could not be tried.
var ErrUnclear = errors.New("some commits could not be tried")

// Bisect finds the first of n commits, the oldest first, that is bad. The one before the
// first is good and the last is bad, as is known; all behind the first bad one are taken
// for bad. With ErrUnclear it is one of those from first to last. It tries about log2(n)
// of them, and more only where some can't be told.
func Bisect(n int, try func(i int) (Tried, error)) (first, last int, err error) {
	if n < 1 {
		return 0, 0, fmt.Errorf("there is no commit between the good one and the bad one")
	}
	good, bad := -1, n-1
	unknown := map[int]bool{}
	for {
		i, ok := nextTry(good, bad, unknown)
		if !ok {
			break
		}
		is, err := try(i)
		if err != nil {
			return 0, 0, err
		}
		switch is {
		case IsGood:
			good = i
		case IsBad:
			bad = i
		default:
			unknown[i] = true
		}
	}
	if good+1 < bad {
		return good + 1, bad, ErrUnclear
	}
	return bad, bad, nil
}

// nextTry is the one nearest to the middle between a good one and a bad one that was not
// tried in vain.
func nextTry(good, bad int, unknown map[int]bool) (int, bool) {
	mid := (good + bad) / 2
	if good == -1 {
		mid = (bad - 1) / 2
	}
	for off := 0; off <= bad-good; off++ {
		for _, i := range []int{mid - off, mid + off} {
			if i > good && i < bad && !unknown[i] {
				return i, true
			}
		}
	}
	return 0, false
}
