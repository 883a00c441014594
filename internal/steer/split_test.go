package steer

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// two is a split between two versions.
func two(canary Weight, change ...func(*Split)) *Split {
	s := &Split{Generation: 1, Service: "cart", Port: 8080, Stable: "stable", Versions: []Version{
		{Name: "stable", Weight: All - canary, Addresses: []netip.AddrPort{at("10.0.0.1:8080")}},
		{Name: "canary", Weight: canary, Addresses: []netip.AddrPort{at("10.0.0.2:8080")}},
	}}
	for _, c := range change {
		c(s)
	}
	return s
}

func TestASplitThatMakesNoSenseIsRefused(t *testing.T) {
	for want, change := range map[string]func(*Split){
		"":                                     func(*Split) {},
		"name a service and a port":            func(s *Split) { s.Port = 0 },
		"it has 0 versions":                    func(s *Split) { s.Versions = nil },
		"come to 105%":                         func(s *Split) { s.Versions[0].Weight = All },
		`version "canary": it is named twice`:  func(s *Split) { s.Versions[0].Name = "canary" },
		"its weight is 200%":                   func(s *Split) { s.Versions[0].Weight = 20000 },
		"it has held 1%, which has to be":      func(s *Split) { s.Versions[1].Held = 100 },
		"it is shut and has a weight of 5%":    func(s *Split) { s.Versions[1].Shut = true },
		`stable version "old" is none`:         func(s *Split) { s.Stable = "old" },
		`named before, of version "stable"`:    func(s *Split) { s.Versions[1].Addresses = s.Versions[0].Addresses },
		"is no address with a port":            func(s *Split) { s.Versions[1].Addresses = []netip.AddrPort{{}} },
		"name a header or a cookie":            func(s *Split) { s.Affinity = &Affinity{} },
		"can't be the name of a header":        func(s *Split) { s.Affinity = &Affinity{Cookie: "a b"} },
		"given a cookie, not a header":         func(s *Split) { s.Affinity = &Affinity{Header: "x", Give: true} },
		`cohort 1 "": it has every request`:    func(s *Split) { s.Cohorts = []Cohort{{Version: "canary"}} },
		`its version "x" is none of the split`: func(s *Split) { s.Cohorts = []Cohort{{Version: "x"}} },
		`the header x-user has no value`:       func(s *Split) { s.Cohorts = []Cohort{{Version: "canary", Match: header("x-user", "")}} },
		`mirror: version "x" is none`:          func(s *Split) { s.Mirror = &Copies{Version: "x", Weight: 1} },
		"mirror: its weight is 0%":             func(s *Split) { s.Mirror = &Copies{Version: "canary"} },
		"slow: 1ms is not more than":           func(s *Split) { s.Slow = []time.Duration{time.Second, time.Millisecond} },
	} {
		err := two(500, change).Check()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
		if want != "" && err != nil && !strings.HasPrefix(err.Error(), "split of ") {
			t.Errorf("does not say where: %v", err)
		}
	}
}

func TestWhatDecidesAboutARequest(t *testing.T) {
	full := func(s *Split) {
		s.Cohorts = []Cohort{
			{Name: "staff", Match: header("x-staff", "yes"), Version: "canary"},
			{Cookies: []HeaderMatch{{Name: "beta", Value: "off"}}, Version: "stable"},
		}
		s.Affinity = &Affinity{Cookie: "seat", Give: true}
	}
	shut := func(s *Split) { s.Versions[1].Shut = true }
	hold := func(w Weight) func(*Split) { return func(s *Split) { s.Versions[1].Held = w } }
	for name, tt := range map[string]struct {
		s       *Split
		headers []string
		want    string
	}{
		"weight":                          {two(500, full), nil, "turn by weight"},
		"cohort by header":                {two(500, full), []string{"x-staff=yes"}, "canary by cohort staff"},
		"cohort by cookie":                {two(500, full), []string{"cookie=a=b; beta=off"}, "stable by cohort"},
		"a cohort without weight":         {two(0, full), []string{"x-staff=yes"}, "canary by cohort staff"},
		"a cohort that is shut":           {two(0, full, shut), []string{"x-staff=yes"}, "turn by weight"},
		"the first cohort":                {two(500, full), []string{"x-staff=yes", "cookie=beta=off"}, "canary by cohort staff"},
		"cohort before affinity":          {two(500, full), []string{"x-staff=yes", "cookie=seat=9000"}, "canary by cohort staff"},
		"affinity to the canary":          {two(500, full), []string{"cookie=x=1; seat=499"}, "canary by affinity"},
		"affinity to stable":              {two(500, full), []string{`cookie=seat="500"`}, "stable by affinity"},
		"a canary's client of before":     {two(500, full, hold(5000)), []string{"cookie=seat=4999"}, "canary by affinity"},
		"until the weight is 0":           {two(0, full, hold(5000)), []string{"cookie=seat=4999"}, "stable by affinity"},
		"shut":                            {two(0, full, hold(5000), shut), []string{"cookie=seat=4999"}, "stable by affinity"},
		"stable's client when that has 0": {two(All, full), []string{"cookie=seat=9999"}, "canary by affinity"},
		"what is no point":                {two(500, full), []string{"cookie=seat=10000"}, "turn by weight"},
		"what is no number":               {two(500, full), []string{"cookie=seat=-1"}, "turn by weight"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tt.s.Check(); err != nil {
				t.Fatal(err)
			}
			ch := tt.s.Choose(requestOf("/", tt.headers...), func() int { return -1 })
			got := "turn"
			if ch.Version >= 0 {
				got = tt.s.Versions[ch.Version].Name
			}
			want(t, name, strings.TrimSpace(fmt.Sprint(got, " by ", ch.Reason, " ", ch.Cohort)), tt.want)
		})
	}
}

// Whoever has been with the canary stays, whatever its weight becomes, until that is 0.
func TestAffinityLastsThroughAllWeights(t *testing.T) {
	for _, give := range []bool{false, true} {
		with := map[string]bool{}
		held := Weight(0)
		for _, w := range []Weight{1, 100, 500, 5000, 500, 8000, 100} {
			held = max(held, w)
			s := two(w, func(s *Split) {
				s.Affinity = &Affinity{Cookie: "seat", Give: give}
				s.Versions[1].Held = held
			})
			if err := s.Check(); err != nil {
				t.Fatal(err)
			}
			n := 0
			for i := range 10000 {
				v := fmt.Sprint(i)
				ch := s.Choose(requestOf("/", "cookie=seat="+v), func() int { t.Fatal("by weight"); return 0 })
				if with[v] && ch.Version != 1 {
					t.Fatalf("%s has left the canary at %v", v, w)
				}
				if ch.Version == 1 {
					with[v] = true
					n++
				}
			}
			if off := n - int(held); off < -200 || off > 200 {
				t.Errorf("%d clients of 10000 are with the canary, want about %d", n, held)
			}
		}
	}
}

// The point that a client is given is one of the version that it was given with.
func TestGivenPointsLeadBack(t *testing.T) {
	s := &Split{Service: "cart", Port: 80, Stable: "b", Affinity: &Affinity{Cookie: "c", Give: true}, Versions: []Version{
		{Name: "a", Weight: 100, Held: 3000}, {Name: "b", Weight: 9000}, {Name: "c", Weight: 900}, {Name: "d", Weight: 0},
	}}
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	for v := range 4 {
		seen := map[int]bool{}
		for n := range uint64(1000) {
			p, ok := s.give(v, n)
			if ok != (v != 3) {
				t.Fatalf("version %d: %v", v, ok)
			}
			if seen[p] = true; ok && s.at(p) != v {
				t.Fatalf("version %d was given point %d, which is of version %d", v, p, s.at(p))
			}
		}
		if v != 3 && len(seen) < 500 {
			t.Errorf("version %d: %d points only", v, len(seen))
		}
	}
}

// Whatever a split and a request are: nothing goes to a version that is shut, and only
// cohorts to one without a weight.
func FuzzChoose(f *testing.F) {
	for _, s := range []*Split{two(500), two(0, func(s *Split) {
		s.Versions[1].Shut, s.Versions[1].Held = true, 5000
		s.Cohorts = []Cohort{{Match: header("x", "y"), Version: "canary"}}
		s.Affinity = &Affinity{Cookie: "seat", Give: true}
	})} {
		b, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, "y", "a=b; seat=12")
	}
	f.Fuzz(func(t *testing.T, b []byte, x, cookie string) {
		var s Split
		if json.Unmarshal(b, &s) != nil || s.Check() != nil {
			return
		}
		turns := newTurns(&s)
		for range 50 {
			ch := s.Choose(requestOf("/", "x="+x, "cookie="+cookie), turns.next)
			v := s.Versions[ch.Version]
			if v.Shut || v.Weight == 0 && ch.Reason != ByCohort {
				t.Fatalf("%+v: %+v", ch, v)
			}
		}
	})
}

func FuzzUncarried(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\nBight-Carried: 1\r\n\r\n",
		"GET / HTTP/1.1\r\nbight-carried:\r\nBIGHT-CARRIED: x\r\nBight-Carried2: 1\r\nA: Bight-Carried: 1\r\nbight-carried: \r\n\r\n",
		"GET /bight-carried: HTTP/1.1\r\nConnection: bight-carried\r\nX-Bight-Carried: 1\r\n\r\n",
		"POST / HTTP/1.1\r\nBight-Carried: 1\r\nContent-Length: 3\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := parseRequest(p)
		if err != nil {
			return
		}
		p = p[:r.size]
		out := uncarried(p)
		var kept []string // the lines that have to be left
		for i, line := range strings.SplitAfter(string(p), "\r\n") {
			if name, _, ok := strings.Cut(line, ":"); i == 0 || !ok || !strings.EqualFold(name, "bight-carried") {
				kept = append(kept, line)
			}
		}
		want(t, "without the header", string(out), strings.Join(kept, ""))
		again, err := parseRequest(out)
		if err != nil || again.carried || again.method != r.method || again.target != r.target || again.body != r.body {
			t.Fatalf("%q: %v, %+v", out, err, again)
		}
		there, err := parseRequest(carried(out))
		if err != nil || !there.carried {
			t.Fatalf("%q: %v", carried(out), err)
		}
		want(t, "there and back", string(uncarried(carried(out))), string(out))
	})
}
