package verdict

import (
	"math"
	"slices"
)

// Thin are at most about n of many points: the first, the last, those at which the verdict
// became another, and of the others most where E moved most. What moved E between two that
// are left is summed up in the later one, the greatest move first.
func Thin(points []Point, n int) []Point {
	if len(points) == 0 {
		return nil
	}
	last := points[len(points)-1]
	whole, way := float64(last.After-points[0].After), 0.0
	for i := 1; i < len(points); i++ {
		way += distance(points[i-1], points[i])
	}
	var out []Point
	var moves []Move
	passed, next := 0.0, 0.0
	for i, p := range points {
		if i > 0 {
			passed += 0.7*share(distance(points[i-1], p), way) + 0.3*share(float64(p.After-points[i-1].After), whole)
		}
		moves = sum(moves, p.Moves)
		turns := i+1 < len(points) && points[i+1].Is != p.Is || i > 0 && points[i-1].Is != p.Is
		if i > 0 && i < len(points)-1 && !turns && passed < next {
			continue
		}
		slices.SortStableFunc(moves, func(a, b Move) int { return greater(math.Abs(a.By), math.Abs(b.By)) })
		p.Moves, moves = moves, nil
		out = append(out, p)
		next = passed + 1/float64(max(n-1, 1))
	}
	return out
}

func greater(a, b float64) int {
	switch {
	case a > b:
		return -1
	case a < b:
		return 1
	}
	return 0
}

func share(part, of float64) float64 {
	if !(of > 0) {
		return 0
	}
	return part / of
}

// distance is how far E and the evidence for the canary lie apart, in logarithms.
func distance(a, b Point) float64 {
	of := func(x, y float64) float64 { return math.Abs(math.Log(max(x, 1e-3)) - math.Log(max(y, 1e-3))) }
	return of(a.E, b.E) + of(a.Good, b.Good)/4
}

func sum(a, b []Move) []Move {
	a = slices.Clone(a)
	for _, m := range b {
		if i := slices.IndexFunc(a, func(o Move) bool { return o.What == m.What }); i >= 0 {
			a[i].N, a[i].By = a[i].N+m.N, a[i].By+m.By
		} else {
			a = append(a, m)
		}
	}
	return a
}
