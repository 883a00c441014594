package queue

// batches returns, for each position of the queue, how many changes to test at
// once there when nothing is known about them, so that the expected number of runs
// until all are judged is the least. pass are the chances of passing.
//
// After a batch of x fails, its first broken change is searched by [search], and
// those behind it are as unknown as before. So with w[k] the chance that k is the
// first broken one,
//
//	runs(i) = min over x of 1 + search(w[:x]) + P(all x pass)·runs(i+x) + Σ w[k]·runs(i+k+1)
func batches(pass []float64, limit int) []int {
	n := len(pass)
	runs := make([]float64, n+1)
	best := make([]int, n)
	for i := n - 1; i >= 0; i-- {
		most := min(limit, n-i)
		w := first(pass[i : i+most])
		tree := search(w)
		all, failing := 1.0, 0.0
		for x := 1; x <= most; x++ {
			all *= pass[i+x-1]
			failing += w[x-1] * runs[i+x]
			cost := 1 + tree.cost[0][x] + all*runs[i+x] + failing
			if x == 1 || cost < runs[i]-1e-9 {
				runs[i], best[i] = cost, x
			}
		}
	}
	return best
}

// first turns chances of passing into the chances that each is the first to fail.
func first(pass []float64) []float64 {
	w := make([]float64, len(pass))
	all := 1.0
	for i, p := range pass {
		w[i] = all * (1 - p)
		all *= p
	}
	return w
}

// plan is how to find the first broken one in any stretch: cost[a][b] is the
// expected number of further runs (not divided by the chance of the stretch) when
// it is one of a to b-1, and split[a][b] how many of them to test next.
type plan struct {
	cost  [][]float64
	split [][]int
}

// search makes the plan for the given chances of being the first broken one: the
// binary tree of least expected depth that keeps the order, since a test of the
// first x tells whether it is among them.
func search(w []float64) plan {
	n := len(w)
	p := plan{make([][]float64, n+1), make([][]int, n+1)}
	sum := make([]float64, n+1)
	for i, v := range w {
		sum[i+1] = sum[i] + v
	}
	for a := range p.cost {
		p.cost[a], p.split[a] = make([]float64, n+1), make([]int, n+1)
	}
	for size := 2; size <= n; size++ {
		for a := 0; a+size <= n; a++ {
			b := a + size
			// The best split moves one way with the ends (Knuth).
			lo, hi := a+1, b-1
			if size > 2 {
				lo, hi = a+p.split[a][b-1], a+1+p.split[a+1][b]
			}
			at, least := lo, p.cost[a][lo]+p.cost[lo][b]
			for m := lo + 1; m <= hi; m++ {
				if c := p.cost[a][m] + p.cost[m][b]; c < least-1e-12 {
					at, least = m, c
				}
			}
			p.cost[a][b], p.split[a][b] = least+sum[b]-sum[a], at-a
		}
	}
	return p
}

// unsuspected is by how much the chance of being broken shrinks for a change that
// touches nothing of what failed.
const unsuspected = 0.05

// blamed adjusts chances of passing to where a failed run's failures are. When no
// change touches any of that, or it is not known, they stay.
func blamed(changes []Change, pass []float64, failedIn []string) []float64 {
	if len(failedIn) == 0 {
		return pass
	}
	failing := map[string]bool{}
	for _, f := range failedIn {
		failing[f] = true
	}
	out, any := make([]float64, len(pass)), false
	for i, c := range changes {
		touches := len(c.Touches) == 0
		for _, t := range c.Touches {
			touches = touches || failing[t]
		}
		out[i] = pass[i]
		if touches {
			any = true
		} else {
			out[i] = 1 - (1-pass[i])*unsuspected
		}
	}
	if !any {
		return pass
	}
	return out
}
