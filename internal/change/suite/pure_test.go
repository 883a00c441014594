package suite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMaskAcrossWrites(t *testing.T) {
	const in = "a secret here, secre not, secretsecret, longsecretvalue and secr"
	const want = "a *** here, secre not, ******, *** and secr"
	for size := 1; size <= len(in); size++ {
		var out bytes.Buffer
		m := NewMask(&out, "secret", "longsecretvalue", "x", "")
		for p := []byte(in); len(p) > 0; {
			n := min(size, len(p))
			if _, err := m.Write(p[:n]); err != nil {
				t.Fatal(err)
			}
			p = p[n:]
		}
		if err := m.Flush(); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Fatalf("in pieces of %d: %q, want %q", size, out.String(), want)
		}
	}
	if got := masked("k: -----BEGIN\n  line two\n", []string{"-----BEGIN\nline two\n"}); got != "k: ***\n  ***\n" {
		t.Errorf("several lines: %q", got)
	}
}

func FuzzMask(f *testing.F) {
	f.Add("hello token", "token", 3)
	f.Add("aaaaab", "aaab", 1)
	f.Fuzz(func(t *testing.T, in, secret string, size int) {
		if size < 1 || len(in) > 1000 {
			return
		}
		whole := masked(in, []string{secret})
		var out bytes.Buffer
		m := NewMask(&out, secret)
		for p := []byte(in); len(p) > 0; {
			n := min(size, len(p))
			m.Write(p[:n])
			p = p[n:]
		}
		m.Flush()
		if out.String() != whole {
			t.Errorf("in pieces %q, at once %q", out.String(), whole)
		}
		s := strings.TrimSpace(secret)
		if len(s) >= shortest && !strings.Contains(s, "\n") && !strings.Contains(s, "*") && strings.Contains(whole, s) {
			t.Errorf("%q is still in %q", s, whole)
		}
	})
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte("{\"Action\":\"run\",\"Package\":\"p\",\"Test\":\"T\"}\nnoise\n{\"Action\":\"fail\",\"Package\":\"p\",\"Test\":\"T\"}\n{\"Action\":\"fail\",\"Package\":\"p\"}\n"))
	f.Add([]byte("{\"Action\":\"build-output\",\"ImportPath\":\"p\",\"Output\":\"x\"}\n{{{\n\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		once, twice := newEvents(io.Discard), newEvents(io.Discard)
		once.Write(in)
		for _, b := range in {
			twice.Write([]byte{b})
		}
		once.end()
		twice.end()
		u := Unit{Name: "p"}
		if diff := cmp.Diff(once.result(u, "/r"), twice.result(u, "/r")); diff != "" {
			t.Error(diff)
		}
	})
}

func TestSplitEvensOutDurations(t *testing.T) {
	units := []Unit{{Name: "a"}, {Name: "b"}, {Name: "c"}, {Name: "d"}, {Name: "new"}}
	seconds := map[string]float64{"a": 10, "b": 6, "c": 5, "d": 3}
	var got [][]string
	for _, share := range Split(units, seconds, 2) {
		var names []string
		for _, u := range share {
			names = append(names, u.Name)
		}
		got = append(got, names)
	}
	want := [][]string{{"a", "c"}, {"b", "new", "d"}} // new is taken to last 6 s
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := Split(nil, nil, 3); len(got) != 3 {
		t.Errorf("%d shares of nothing, want 3", len(got))
	}
	slices.Reverse(units)
	if diff := cmp.Diff(Split(units, seconds, 2), Split([]Unit{{Name: "d"}, {Name: "a"}, {Name: "new"}, {Name: "c"}, {Name: "b"}}, seconds, 2)); diff != "" {
		t.Errorf("the order of units matters: %s", diff)
	}
}

func TestFlakiness(t *testing.T) {
	history := func(s string) []Outcome { // letters of one word are runs with the same inputs
		var out []Outcome
		for i, word := range strings.Fields(s) {
			for _, c := range word {
				out = append(out, Outcome{Key: fmt.Sprint(i), Passed: c == 'p'})
			}
		}
		return out
	}
	for _, c := range []struct {
		name, history string
		least, most   float64
	}{
		{"unknown", "", 0, 0},
		{"other inputs, other results", "p f p f p f", 0, 0},
		{"one contradiction", "fp", 0.5, 0.99},
		{"several", "fp fp fp fp", 0.99, 1},
		{"one among many agreements", "fp " + strings.Repeat("p", 1000), 0, 0.2},
	} {
		if got := Flakiness(history(c.history)); got < c.least || got > c.most {
			t.Errorf("%s: %.4f, want %.2f to %.2f", c.name, got, c.least, c.most)
		}
	}
}

func TestBetaBelow(t *testing.T) {
	for _, c := range []struct{ x, a, b, want float64 }{
		{0.5, 2, 2, 0.5},
		{0.3, 1, 1, 0.3},
		{0.2, 1, 5, 1 - math.Pow(0.8, 5)},
		{0.9, 7, 1, math.Pow(0.9, 7)},
		{0.25, 2, 3, 1 - math.Pow(0.75, 4) - 4*0.25*math.Pow(0.75, 3)},
	} {
		if got := betaBelow(c.x, c.a, c.b); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("betaBelow(%g, %g, %g) = %.15f, want %.15f", c.x, c.a, c.b, got, c.want)
		}
	}
}

func TestTheCacheBelievesNothing(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	c := &Cache{Store: Dir(dir)}
	good := UnitResult{Name: "u", Key: "k1", Status: Passed, Tests: []Test{{Name: "T<&>", Status: Passed}}}
	if err := c.Put(ctx, Untrusted, "fork", good); err != nil {
		t.Fatal(err)
	}
	if _, _, ok, err := c.Get(ctx, Trusted, "k1"); ok || err != nil {
		t.Errorf("a trusted reader sees what an untrusted change wrote (%v, %v)", ok, err)
	}
	if _, from, ok, err := c.Get(ctx, Untrusted, "k1"); !ok || from != "fork" || err != nil {
		t.Errorf("an untrusted one does not: %v %q %v", ok, from, err)
	}
	if err := c.Put(ctx, Trusted, "main", good); err != nil {
		t.Fatal(err)
	}
	res, from, ok, err := c.Get(ctx, Untrusted, "k1")
	if !ok || from != "main" || err != nil {
		t.Errorf("an untrusted reader prefers the trusted entry; got %v %q %v", ok, from, err)
	}
	if diff := cmp.Diff(good, res); diff != "" {
		t.Error(diff)
	}
	trusted, untrusted := filepath.Join(dir, "trusted/k1"), filepath.Join(dir, "untrusted/k1")
	data, err := os.ReadFile(trusted)
	if err != nil {
		t.Fatal(err)
	}
	fork, err := os.ReadFile(untrusted)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"cut":                bytes.TrimSuffix(data, data[len(data)-20:]),
		"empty":              nil,
		"changed":            bytes.Replace(data, []byte(`T\u003c`), []byte(`X\u003c`), 1),
		"moved from a fork":  fork,
		"of another key":     bytes.ReplaceAll(data, []byte(`k1`), []byte(`k2`)),
		"not what it claims": []byte(`{"sum":"","body":{}}`),
	} {
		if err := os.WriteFile(trusted, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, ok, err := c.Get(ctx, Trusted, "k1"); ok || err == nil {
			t.Errorf("%s: taken for good (%v, %v)", name, ok, err)
		}
	}
	for _, s := range []Status{Failed, Stopped} {
		if err := c.Put(ctx, Trusted, "main", UnitResult{Key: "k9", Status: s}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, ok, err := c.Get(ctx, Trusted, "k9"); ok || err != nil {
		t.Errorf("what failed was kept: %v %v", ok, err)
	}
	for _, name := range []string{"../x", "/etc/x", "a\\b"} {
		if err := Dir(dir).Put(ctx, name, nil); err == nil {
			t.Errorf("%q is taken for a name", name)
		}
	}
}

// gone is a store that does not answer.
type gone struct{}

func (gone) Get(context.Context, string) ([]byte, error) { return nil, errors.New("no answer") }
func (gone) Put(context.Context, string, []byte) error   { return errors.New("no answer") }

func TestTestsRunWithoutTheCache(t *testing.T) {
	r := &Runner{Source: Source{Root: app(t, map[string]string{"x/a": ""}), Commands: []Command{{Service: "x", Dir: "x", Run: "true"}}}, Cache: &Cache{Store: gone{}}}
	res := run1(t, r)
	if res.Status != Passed || len(res.Notes) != 2 {
		t.Errorf("got %s, notes %q", res.Status, res.Notes)
	}
}

func TestHistoryFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	want := []Outcome{{Unit: "u", Test: "", Seconds: 2, Passed: true}, {Unit: "u", Test: "T", Key: "k"}}
	if err := (&File{Path: path}).Add(t.Context(), want...); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("{half a line\n\x00\n")
	f.Close()
	got, err := (&File{Path: path}).Outcomes(t.Context(), "u")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if s, ok := Duration(got); s != 2 || !ok {
		t.Errorf("duration %g %v", s, ok)
	}
}

func TestJUnitOutAndIn(t *testing.T) {
	res := &Result{Units: []UnitResult{
		{Name: "p", Status: Failed, Tests: []Test{
			{Name: "Good", Status: Passed, Seconds: 1.5},
			{Name: "Bad\x00", Status: Failed, File: "a.go", Line: 3, Output: []string{"it <broke> \x1b[31m\xff"}},
			{Name: "Later", Status: Skipped},
			{Name: "Shy", Status: Failed, Flaky: true, Quarantined: true},
		}},
		{Name: "q", Status: Failed, Reason: "it does not compile", Output: []string{"a.go:1: no"}},
		{Name: "r", Status: Passed, Cached: "same inputs as change 1"},
	}}
	var out bytes.Buffer
	if err := WriteJUnit(&out, res); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`tests="5" failures="1" errors="1" skipped="1"`, "flakyFailure", "same inputs as change 1", "it does not compile"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	tests, err := ReadJUnit(&out)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, t := range tests {
		got = append(got, fmt.Sprint(t.Name, " ", t.Status, " ", t.File, t.Line))
	}
	want := []string{"p.Good passed 0", "p.Bad failed a.go3", "p.Later skipped 0", "p.Shy passed 0", "q.(all) failed 0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "x", "<testsuite/>", strings.Repeat("<testsuite>", 100), "<testsuite><testcase>"} {
		if _, err := ReadJUnit(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is taken for a report", bad)
		}
	}
}

func FuzzReadJUnit(f *testing.F) {
	f.Add([]byte(`<testsuites><testsuite><testcase name="a" time="1,000.5"><failure>x</failure></testcase></testsuite></testsuites>`))
	f.Fuzz(func(t *testing.T, in []byte) {
		tests, err := ReadJUnit(bytes.NewReader(in))
		if err == nil && len(tests) == 0 {
			t.Error("neither tests nor an error")
		}
	})
}

func TestWhatACommandSaysOfItsFailureIsFound(t *testing.T) {
	for name, test := range map[string]struct {
		output string
		want   []string
	}{
		"node's TAP":    {"TAP version 13\n# Subtest: adds\nnot ok 1 - adds\n  ---\n  duration_ms: 2\n  error: '2 == 3'\n  code: 'ERR'\n  ...\n1..1\n# fail 1\n", []string{"not ok 1 - adds", "error: '2 == 3'"}},
		"node":          {"✔ one (0.4ms)\n✖ adds (1.2ms)\nℹ fail 1\n✖ adds (1.2ms)\n  AssertionError [ERR_ASSERTION]: 2 == 3\n", []string{"✖ adds (1.2ms)", "AssertionError [ERR_ASSERTION]: 2 == 3"}},
		"pytest":        {"a_test.py F\n    def test_a():\n>     assert 1 == 2\nE     assert 1 == 2\nFAILED a_test.py::test_a - assert 1 == 2\n", []string{"E     assert 1 == 2", "FAILED a_test.py::test_a - assert 1 == 2"}},
		"no program":    {"sh: 1: jest: not found\n", []string{"sh: 1: jest: not found"}},
		"npm":           {"npm error code EJSONPARSE\nnpm error JSON.parse Invalid package.json\n", []string{"npm error code EJSONPARSE", "npm error JSON.parse Invalid package.json"}},
		"nothing known": {"one\n\ntwo\nthree\nfour\nerrors: none\n", []string{"two", "three", "four", "errors: none"}},
		"silence":       {"", nil},
	} {
		u := UnitResult{Name: "web", Kind: Shell, Status: Failed, Tests: []Test{{Name: wholeCommand, Status: Failed}}, Output: strings.Split(test.output, "\n")}
		if d := cmp.Diff(test.want, u.Failures()); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestMergeOfShares(t *testing.T) {
	got := Merge(&Result{Units: []UnitResult{{Name: "b", Status: Passed, Tests: []Test{{Name: "T", Status: Passed}}}}, Seconds: 2},
		nil, &Result{Units: []UnitResult{{Name: "a", Status: Stopped, Stop: StopTime}}, Seconds: 3})
	if got.Status != Stopped || got.Seconds != 3 || got.Units[0].Name != "a" || got.Counts.Passed != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestProxyPasswordsAreNotPassedOn(t *testing.T) {
	env := map[string]string{"GOPROXY": "https://me:pass@proxy.example/x|direct", "AWS_SECRET_ACCESS_KEY": "x", "KUBECONFIG": "x", "SSH_AUTH_SOCK": "x"}
	got := Source{}.environment(func(n string) string { return env[n] })
	if !slices.Contains(got, "GOPROXY=https://proxy.example/x,direct") {
		t.Errorf("got %q", got)
	}
	for _, e := range got {
		if strings.HasPrefix(e, "AWS") || strings.HasPrefix(e, "KUBE") || strings.HasPrefix(e, "SSH") {
			t.Errorf("%s is passed on", e)
		}
	}
}
