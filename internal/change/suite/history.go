package suite

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Outcome is how a test ended once.
type Outcome struct {
	Unit    string  `json:"unit"`
	Test    string  `json:"test"` // "" is the unit as a whole
	Key     string  `json:"key"`
	Passed  bool    `json:"passed"`
	Seconds float64 `json:"seconds"`
}

// History remembers outcomes. Implementations are safe for concurrent use.
type History interface {
	// Outcomes returns what is known about the tests of a unit, oldest first.
	Outcomes(ctx context.Context, unit string) ([]Outcome, error)
	Add(ctx context.Context, outcomes ...Outcome) error
}

// Flakiness is the chance that a test is flaky, which is to say that more than one
// in a hundred of its runs with the same inputs gives another result than the run
// before, after the outcomes of that test.
//
// The share of such runs is taken to be 1 % before anything is known, with the
// weight of 50 runs; 3 contradictions among a few runs make it nearly certain.
func Flakiness(outcomes []Outcome) float64 {
	last := map[string]bool{}
	seen := map[string]bool{}
	same, other := 0.0, 0.0
	for _, o := range outcomes {
		switch {
		case !seen[o.Key]:
		case last[o.Key] == o.Passed:
			same++
		default:
			other++
		}
		seen[o.Key], last[o.Key] = true, o.Passed
	}
	if other == 0 {
		return 0
	}
	return 1 - betaBelow(0.01, 0.5+other, 49.5+same)
}

// betaBelow is the chance that a share with the Beta distribution of a and b is
// less than x: the regularised incomplete beta function, by Lentz's continued
// fraction.
func betaBelow(x, a, b float64) float64 {
	if x > (a+1)/(a+b+2) {
		return 1 - betaBelow(1-x, b, a)
	}
	la, _ := math.Lgamma(a)
	lb, _ := math.Lgamma(b)
	lab, _ := math.Lgamma(a + b)
	front := math.Exp(lab - la - lb + a*math.Log(x) + b*math.Log1p(-x))
	guard := func(v float64) float64 {
		if math.Abs(v) < 1e-300 {
			return 1e-300
		}
		return v
	}
	c, d := 1.0, 1/guard(1-(a+b)*x/(a+1))
	f := d
	for i := 1.0; i < 500; i++ {
		for _, num := range []float64{
			i * (b - i) * x / ((a + 2*i - 1) * (a + 2*i)),
			-(a + i) * (a + b + i) * x / ((a + 2*i) * (a + 2*i + 1)),
		} {
			d = 1 / guard(1+num*d)
			c = guard(1 + num/c)
			f *= c * d
		}
		if math.Abs(c*d-1) < 1e-14 {
			break
		}
	}
	return front * f / a
}

// Duration estimates how long a unit takes: the mean of its last five runs.
// Without any it is false.
func Duration(outcomes []Outcome) (seconds float64, known bool) {
	n := 0.0
	for _, o := range slices.Backward(outcomes) {
		if o.Test == "" && n < 5 {
			seconds, n = seconds+o.Seconds, n+1
		}
	}
	return seconds / max(n, 1), n > 0
}

// Split shares units out over n workers so that all end at about the same time:
// the longest first, each to the worker that has least. A unit without a known
// duration is taken to last as long as the mean of the known ones. The same units
// and durations give the same shares; there are always n of them.
func Split(units []Unit, seconds map[string]float64, n int) [][]Unit {
	n = max(n, 1)
	mean, known := 0.0, 0.0
	for _, u := range units {
		if s, ok := seconds[u.Name]; ok {
			mean, known = mean+s, known+1
		}
	}
	mean = max(mean/max(known, 1), 0.01)
	length := func(u Unit) float64 {
		if s, ok := seconds[u.Name]; ok {
			return max(s, 0)
		}
		return mean
	}
	sorted := slices.Clone(units)
	slices.SortFunc(sorted, func(a, b Unit) int {
		return cmp.Or(cmp.Compare(length(b), length(a)), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind))
	})
	shares, loads := make([][]Unit, n), make([]float64, n)
	for _, u := range sorted {
		least := 0
		for i := range loads {
			if loads[i] < loads[least] || loads[i] == loads[least] && len(shares[i]) < len(shares[least]) {
				least = i
			}
		}
		shares[least] = append(shares[least], u)
		loads[least] += length(u)
	}
	return shares
}

// leastShare is how many seconds of tests are worth the time that another worker needs
// to check the source out and to compile them.
const leastShare = 10

// Worth says over how many of n workers units are worth sharing out, of which it is
// known how many seconds they take: each worker gets ten seconds of tests or more, and
// none waits for the longest unit alone.
func Worth(seconds map[string]float64, n int) int {
	total, longest := 0.0, 0.0
	for _, s := range seconds {
		total, longest = total+s, max(longest, s)
	}
	if longest > 0 {
		n = min(n, int(math.Ceil(total/longest)))
	}
	return max(min(n, len(seconds), int(total/leastShare)), 1)
}

// Estimates are how many seconds units take, those of which nothing is known as many
// as the others on average. They are none where nothing is known of any.
func Estimates(units []Unit, known map[string]float64) map[string]float64 {
	mean, n := 0.0, 0.0
	for _, u := range units {
		if s, ok := known[u.Name]; ok {
			mean, n = mean+s, n+1
		}
	}
	if n == 0 {
		return nil
	}
	out := map[string]float64{}
	for _, u := range units {
		s, ok := known[u.Name]
		if !ok {
			s = mean / n
		}
		out[u.Name] += s
	}
	return out
}

// File is a History in a file of one JSON object per line. Lines that can't be
// read are left out.
type File struct {
	Path string

	mu   sync.Mutex
	read bool
	all  map[string][]Outcome
}

// perUnit is how many outcomes of a unit are kept in memory.
const perUnit = 20_000

func (f *File) Outcomes(_ context.Context, unit string) ([]Outcome, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.load(); err != nil {
		return nil, err
	}
	return slices.Clone(f.all[unit]), nil
}

func (f *File) load() error {
	if f.read {
		return nil
	}
	f.all = map[string][]Outcome{}
	data, err := os.ReadFile(f.Path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the history of tests: %w", err)
	}
	for line := range bytes.Lines(data) {
		var o Outcome
		if json.Unmarshal(line, &o) == nil && o.Unit != "" {
			f.keep(o)
		}
	}
	f.read = true
	return nil
}

func (f *File) keep(o Outcome) {
	list := append(f.all[o.Unit], o)
	if len(list) > perUnit {
		list = slices.Clone(list[len(list)-perUnit/2:])
	}
	f.all[o.Unit] = list
}

func (f *File) Add(_ context.Context, outcomes ...Outcome) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.load(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o700); err != nil {
		return fmt.Errorf("keep the history of tests: %w", err)
	}
	file, err := os.OpenFile(f.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keep the history of tests: %w", err)
	}
	defer file.Close()
	w := bufio.NewWriter(file)
	for _, o := range outcomes {
		line, err := json.Marshal(o)
		if err != nil {
			return err
		}
		_, _ = w.Write(append(line, '\n')) // Flush tells
		f.keep(o)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("keep the history of tests: %w", err)
	}
	return file.Close()
}
