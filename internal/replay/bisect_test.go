package replay

import (
	"errors"
	"math"
	"testing"
)

func TestBisectFindsTheFirst(t *testing.T) {
	for n := 1; n <= 33; n++ {
		for bad := range n {
			tries := 0
			first, last, err := Bisect(n, func(i int) (Tried, error) {
				if tries++; i < 0 || i >= n-1 {
					t.Fatalf("of %d, %d is tried, which is known", n, i)
				}
				if i >= bad {
					return IsBad, nil
				}
				return IsGood, nil
			})
			if err != nil || first != bad || last != bad || float64(tries) > math.Ceil(math.Log2(float64(n)))+1 {
				t.Errorf("of %d, %d is bad: found %d to %d in %d tries, %v", n, bad, first, last, tries, err)
			}
		}
	}
}

func TestBisectGoesAroundWhatCantBeTold(t *testing.T) {
	for _, tt := range []struct {
		n, bad      int
		unknown     []int
		first, last int
		unclear     bool
	}{
		{9, 6, []int{4}, 6, 6, false},
		{9, 6, []int{3, 4, 5}, 3, 6, true},
		{9, 2, []int{4, 3}, 2, 2, false},
		{2, 1, []int{0}, 0, 1, true},
	} {
		tries := map[int]int{}
		first, last, err := Bisect(tt.n, func(i int) (Tried, error) {
			tries[i]++
			for _, u := range tt.unknown {
				if u == i {
					return IsUnknown, nil
				}
			}
			if i >= tt.bad {
				return IsBad, nil
			}
			return IsGood, nil
		})
		if first != tt.first || last != tt.last || errors.Is(err, ErrUnclear) != tt.unclear {
			t.Errorf("%+v: found %d to %d, %v", tt, first, last, err)
		}
		for i, n := range tries {
			if n > 1 {
				t.Errorf("%+v: %d is tried %d times", tt, i, n)
			}
		}
	}
	broken := errors.New("no disk")
	if _, _, err := Bisect(5, func(int) (Tried, error) { return IsGood, broken }); !errors.Is(err, broken) {
		t.Errorf("the error is %v", err)
	}
	if _, _, err := Bisect(0, nil); err == nil {
		t.Error("no commits, no error")
	}
}
