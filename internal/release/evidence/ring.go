package evidence

import (
	"slices"
	"time"
)

// Ring keeps the newest pairs of each class and version. The zero value keeps nothing.
type Ring struct {
	Most  int           // of each class of each version
	Bytes int           // of all together
	Age   time.Duration // at most

	pairs []*Pair // oldest first
	size  int
}

// Add keeps a pair, and drops what has no room any more: of that class and version, or
// samples first, then what is slow, then what is stable's, then the oldest.
func (r *Ring) Add(p *Pair) {
	if p.Size() > r.Bytes {
		return
	}
	r.pairs, r.size = append(r.pairs, p), r.size+p.Size()
	r.Forget(p.Time.Add(-r.Age))
	alike := 0
	for _, o := range r.pairs {
		if o.Class == p.Class && o.Version == p.Version {
			alike++
		}
	}
	if alike > r.Most {
		r.drop(slices.IndexFunc(r.pairs, func(o *Pair) bool { return o.Class == p.Class && o.Version == p.Version }))
	}
	for r.size > r.Bytes {
		r.drop(r.least())
	}
}

// least is the pair that is of the least interest.
func (r *Ring) least() int {
	for _, which := range []func(*Pair) bool{
		func(p *Pair) bool { return p.Class == Sample },
		func(p *Pair) bool { return p.Class == Slow },
		func(p *Pair) bool { return p.Version != "canary" },
	} {
		if i := slices.IndexFunc(r.pairs, which); i >= 0 {
			return i
		}
	}
	return 0
}

func (r *Ring) drop(i int) {
	r.size -= r.pairs[i].Size()
	r.pairs = slices.Delete(r.pairs, i, i+1)
}

// Drop drops all.
func (r *Ring) Drop() { r.pairs, r.size = nil, 0 }

// Each changes all pairs.
func (r *Ring) Each(change func(*Pair)) {
	r.size = 0
	for _, p := range r.pairs {
		change(p)
		r.size += p.Size()
	}
}

// Grown takes note that a pair has become larger since it was added.
func (r *Ring) Grown(by int) {
	r.size += by
	for r.size > r.Bytes && len(r.pairs) > 0 {
		r.drop(r.least())
	}
}

// Forget drops what is older than a time.
func (r *Ring) Forget(before time.Time) {
	for len(r.pairs) > 0 && r.pairs[0].Time.Before(before) {
		r.drop(0)
	}
}

// Pairs are those that are kept, the oldest first.
func (r *Ring) Pairs() []*Pair { return slices.Clone(r.pairs) }
