package verdict

import "math"

// A bettor is a fixed set of hypotheses to bet on, against one null hypothesis, and
// how the stake of 1 is spread over them. Under the null each bet multiplies what
// is staked on it by a factor of mean at most 1, so what the bettor owns in all is
// a nonnegative supermartingale that starts at 1: an e-process. By Ville's
// inequality it ever reaches 1/a with probability at most a, whenever one looks.
type bettor struct {
	share []float64 // of what is staked, on each bet, in logarithms; the parts sum to 1
}

// reserve is the part of the stake that is held back and bet later, a slice in each
// epoch: what was bet in a long quiet time, or while a dependency was down, is as
// good as lost, and fresh money finds a version that breaks then. Money that is not
// bet stays what it is, so the sum stays a supermartingale, whatever the slices are,
// as long as they are fixed beforehand. It costs ln(1/0.8) = 0.22 nats at the start.
const reserve = 0.2

// wealth is what a bettor owns. All of it is in natural logarithms, so that neither
// a billion requests nor a certain conviction leaves the range of a float64.
type wealth struct {
	Epoch int64     `json:"epoch"` // epochs whose slice of the reserve has been staked
	Logs  []float64 `json:"logs"`  // of what each bet has come to
}

func (b bettor) start() wealth {
	w := wealth{Logs: make([]float64, len(b.share))}
	for i, share := range b.share {
		w.Logs[i] = math.Log(1-reserve) + share
	}
	return w
}

// stake bets the slices of the reserve that are due by an epoch. The slice of epoch
// k is reserve/(k(k+1)), so after epoch k reserve/(k+1) is left: the sum telescopes,
// and a version that breaks in epoch k is found as if from a stake of about 1/5k².
func (b bettor) stake(w *wealth, epoch int64) {
	if epoch <= w.Epoch {
		return
	}
	due := math.Log(reserve*(1/float64(w.Epoch+1)-1/float64(epoch+1)) + math.SmallestNonzeroFloat64)
	for i, share := range b.share {
		w.Logs[i] = logAdd(w.Logs[i], due+share)
	}
	w.Epoch = epoch
}

// log is the logarithm of all that is owned, what is still in reserve included.
func (w *wealth) log() float64 {
	kept := math.Log(reserve / float64(w.Epoch+1))
	top := kept
	for _, l := range w.Logs {
		top = max(top, l)
	}
	sum := math.Exp(kept - top)
	for _, l := range w.Logs {
		sum += math.Exp(l - top)
	}
	return top + math.Log(sum)
}

// top is not less than the largest part of what is owned.
func (w *wealth) top() float64 {
	top := 0.0 // the reserve is less than 1
	for _, l := range w.Logs {
		top = max(top, l)
	}
	return top
}

// move multiplies one bet by exp(by). What is not finite is no bet.
func (w *wealth) move(bet int, by float64) {
	if l := w.Logs[bet] + by; !math.IsNaN(l) && !math.IsInf(l, 0) {
		w.Logs[bet] = l
	}
}

// logAdd is log(exp(a)+exp(b)) without leaving the range of a float64.
func logAdd(a, b float64) float64 {
	if a < b {
		a, b = b, a
	}
	if d := b - a; d > -40 { // beyond that b is below the last bit of a
		return a + math.Log1p(math.Exp(d))
	}
	return a
}

// average is the logarithm of the weighted mean of what is owned. The mean of
// e-values is an e-value however they depend on each other (Vovk and Wang 2021), so
// no correction for looking at several signals is needed.
func average(weights []float64, of []*wealth) float64 {
	sum := math.Inf(-1)
	for i, weight := range weights {
		if weight > 0 && of[i] != nil {
			sum = logAdd(sum, math.Log(weight)+of[i].log())
		}
	}
	return sum
}

// step is by how much the logarithm of one bet moves for one request, by where the
// request went and how it ended. The zero step bets nothing.
type step struct{ canaryFail, canaryOK, stableFail, stableOK float64 }

// relative is the bet that the canary fails r times as often as is allowed, which is
// rho times as often as stable. Given that a request failed, it was the canary's
// with probability theta(rho, w) = w*rho/(w*rho+1-w) at the most, whatever the rate
// of errors is at that moment, so an outage that both share cancels. The bet pays
// theta(rho*r)/theta(rho) for an error of the canary, (1-theta(rho*r))/(1-theta(rho))
// for one of stable, and nothing for a success:
//
//	theta(rho*r)/theta(rho)         = r * (w*rho+1-w) / (w*rho*r+1-w)
//	(1-theta(rho*r))/(1-theta(rho)) =     (w*rho+1-w) / (w*rho*r+1-w)
//
// Its mean is 1 at theta(rho), and at most 1 below it because for r > 1 it pays more
// for the canary's error than for stable's (Lindon and Malek 2022, as a mixture over r).
func relative(w, rho, r float64) step {
	if !(w > 0 && w < 1) {
		return step{}
	}
	d := math.Log((w*rho + 1 - w) / (w*rho*r + 1 - w))
	return step{canaryFail: math.Log(r) + d, stableFail: d}
}

// exposed is the bet that the canary fails with probability pc and stable with pb,
// pc > pb, and counts successes too. A success pays (1-p)/(1-p0) with p the arm's
// own and p0 = w*pc + (1-w)*pb; an error pays k*p. With k = 1/p0 the mean is 1 for
// any rate of errors q that both arms share: q*(w*pc+(1-w)*pb)/p0 + (1-q)*(...)/(1-p0)
// = q + (1-q). For rho > 1 the mean is linear in both true rates, so on all of
// "canary <= rho*stable" it is largest at a corner: (0, 0) gives 1, (0, 1) and (1, 1)
// give less than (0, 0) and (1, 1/rho), because stable's error pays less than its
// success, and (1, 1/rho) gives 1 with this k:
//
//	k * (w*pc + (1-w)*pb/rho) = 1 - (1-w)*(1-1/rho)*(1-pb)/(1-p0)
//
// For a block of nc and nb requests whose rate of errors does not change inside of
// it, the product of these factors with w = nc/(nc+nb) has a mean of at most
// A^nc * B^nb where w*A + (1-w)*B <= 1, and that is at most 1 as the geometric mean
// is at most the arithmetic: the safe 2x2 test (Turner, Ly and Grünwald 2024).
func exposed(w, rho, pc, pb float64) step {
	if !(w > 0 && w < 1 && pc > pb) {
		return step{}
	}
	p0 := w*pc + (1-w)*pb
	k := (1 - (1-w)*(1-1/rho)*(1-pb)/(1-p0)) / (w*pc + (1-w)*pb/rho)
	if !(k > 0) {
		return step{}
	}
	ok := -math.Log1p(-p0)
	return step{
		canaryFail: math.Log(k * pc), canaryOK: math.Log1p(-pc) + ok,
		stableFail: math.Log(k * pb), stableOK: math.Log1p(-pb) + ok,
	}
}

// below is the bet that a rate is p where the null hypothesis says that it is bound
// or more: (p/bound) for an event, (1-p)/(1-bound) for none. For p < bound the first
// is the smaller, so the mean falls as the true rate rises, and is 1 at the bound.
func below(bound, p float64) (event, none float64) {
	return math.Log(p / bound), math.Log1p(-p) - math.Log1p(-bound)
}
