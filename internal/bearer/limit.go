package bearer

import (
	"sync"
	"time"
)

// Rate is so many in a second, and so many at once.
type Rate struct{ PerSecond, Burst float64 }

const (
	mostAddresses = 1 << 14 // more than nodes of a cluster
	// trusted is for how long an address counts as one that good tokens come from: kubelet renews a token after 48 min at
	// the latest, and whoever has nothing to say sends none.
	trusted = 24 * time.Hour
)

// Limit counts the questions about strangers, by the address that they come from.
type Limit struct {
	// Each is for one address, All for all those together that nothing good has come from.
	Each, All Rate

	mu    sync.Mutex
	all   bucket
	parts map[string]*part
	swept time.Time // when room was made
}

// part is one address.
type part struct {
	bucket
	good time.Time // when something good came from there, the zero time for never
}

// bucket is what may be taken at once.
type bucket struct {
	left float64
	at   time.Time
}

func (b *bucket) fill(r Rate, now time.Time) {
	if b.at.IsZero() {
		b.left = r.Burst
	} else if gone := now.Sub(b.at); gone > 0 {
		b.left = min(r.Burst, b.left+r.PerSecond*gone.Seconds())
	}
	b.at = now
}

// Take says whether a question may be asked for an address, and counts it.
func (l *Limit) Take(from string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.part(from, now)
	p.fill(l.Each, now)
	l.all.fill(l.All, now)
	known := p.known(now)
	if p.left < 1 || !known && l.all.left < 1 {
		return false
	}
	p.left--
	if !known {
		l.all.left--
	}
	return true
}

// Good says that the answer to a question was a good one.
func (l *Limit) Good(from string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part(from, now).good = now
}

func (p *part) known(now time.Time) bool { return !p.good.IsZero() && now.Sub(p.good) < trusted }

// part returns an address's. Where there are too many, those are forgotten that would be the same without; what comes from
// more than that at once is as from one. The lock is held.
func (l *Limit) part(from string, now time.Time) *part {
	if p := l.parts[from]; p != nil {
		return p
	}
	if len(l.parts) >= mostAddresses && now.Sub(l.swept) >= time.Second { // looking at all of them costs something, too
		l.swept = now
		for name, p := range l.parts {
			if p.fill(l.Each, now); p.left >= l.Each.Burst && !p.known(now) {
				delete(l.parts, name)
			}
		}
	}
	if len(l.parts) >= mostAddresses {
		from = ""
		if p := l.parts[from]; p != nil {
			return p
		}
	}
	if l.parts == nil {
		l.parts = map[string]*part{}
	}
	p := &part{}
	l.parts[from] = p
	return p
}
