package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release/verdict"
	"github.com/bightdev/bight/internal/ui/term"
)

// logText is the log of a judge that has seen a canary fail.
func logText(t *testing.T, judge string) []byte {
	t.Helper()
	c := verdict.Config{Hung: time.Second, Alpha: 0.0005}
	j, err := verdict.New(c)
	if err != nil {
		t.Fatal(err)
	}
	s, tape := j.Start(noon), verdict.Tape{Judge: judge}
	tape.Begin(c, s, 0)
	for i := range 64 {
		counts := &verdict.Counts{Cells: []verdict.Cell{{Weight: 0.05, Canary: verdict.Tally{Closed: [5]int64{10}}, Stable: verdict.Tally{Closed: [5]int64{190}, Failed: 1}}}}
		if i > 50 {
			counts.Cells[0].Canary = verdict.Tally{Failed: 1}
		}
		was := s
		var v verdict.Verdict
		o := verdict.Observation{At: noon.Add(time.Duration(i) * time.Second), Counts: counts}
		s, v = j.Next(s, o)
		tape.Took(o, was, s)
		tape.Say(v)
	}
	text, err := tape.Drain()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// copiesLog is the log of a judge that has seen copies fail.
func copiesLog(t *testing.T) []byte {
	t.Helper()
	c := verdict.Config{Hung: time.Second, Alpha: 0.0005, Copies: true}
	j, err := verdict.New(c)
	if err != nil {
		t.Fatal(err)
	}
	s, tape := j.Start(noon), verdict.Tape{Judge: "controller"}
	tape.Begin(c, s, 0)
	for i := range 20 {
		was := s
		var v verdict.Verdict
		o := verdict.Observation{At: noon.Add(time.Duration(i) * time.Second), Counts: &verdict.Counts{Cells: []verdict.Cell{
			{Weight: 0.5, Copies: true, Canary: verdict.Tally{Closed: [5]int64{1}, Failed: 1}},
		}}}
		s, v = j.Next(s, o)
		tape.Took(o, was, s)
		tape.Say(v)
	}
	text, err := tape.Drain()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAVerdictByCopiesIsShown(t *testing.T) {
	all, err := judged(copiesLog(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	text := printed(t, all, &verdictFlags{})
	t.Log(text)
	for _, want := range []string{"CANARY  STABLE  COPIES", "28, 14 errors", "error of a copy (E ×", "14 errors of copies in 13 s, whose requests had none; 0 the other way round", "the same, byte for byte"} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if all, err = judged(logText(t, "controller"), nil); err != nil {
		t.Fatal(err)
	}
	if text := printed(t, all, &verdictFlags{}); strings.Contains(text, "COPIES") {
		t.Errorf("without copies it has a column for them:\n%s", text)
	}
}

func printed(t *testing.T, all *shownVerdict, f *verdictFlags) string {
	t.Helper()
	var out bytes.Buffer
	p := &Program{Stdout: &out, Stderr: &out}
	printer := term.New(term.Config{Out: term.Stream{W: &out}, Err: term.Stream{W: &out}})
	if err := p.showVerdict(printer, f, all); err != nil {
		t.Fatal(err)
	}
	if err := printer.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestAVerdictIsShownAndComputedAgain(t *testing.T) {
	f := &verdictFlags{alpha: 0.1, maxErrors: "2"}
	vary, err := f.vary()
	if err != nil {
		t.Fatal(err)
	}
	all, err := judged(append(logText(t, "controller"), logText(t, "node n1")...), vary)
	if err != nil {
		t.Fatal(err)
	}
	text := printed(t, all, f)
	t.Log(text)
	for _, want := range []string{
		"judged by the controller: bad: E = ", "judged by node n1", "MOVED MOST BY", "error of the canary", "the same, byte for byte",
		"with --alpha 0.1 --max-errors 2: bad: E = ", "abort at 20, ", "s sooner",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if err := all.wrong(); err != nil {
		t.Error(err)
	}
	r := &v1alpha1.Release{Status: v1alpha1.ReleaseStatus{Verdict: &v1alpha1.VerdictStatus{Why: all.Judges[0].Verdict.Why}}}
	all.agrees(r)
	if err := all.wrong(); err != nil {
		t.Errorf("it is not what the status says: %v", err)
	}
	r.Status.Verdict.Why = "something else"
	all.agrees(r)
	if err := all.wrong(); err == nil || !strings.Contains(err.Error(), "something else") {
		t.Errorf("the status says something else: %v", err)
	}
}

func TestALogThatWasChangedIsFoundOut(t *testing.T) {
	all, err := judged(bytes.Replace(logText(t, "controller"), []byte(`"failed":1}`), []byte(`"failed":7}`), 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := all.wrong(); err == nil || !strings.Contains(err.Error(), "the log of controller leads to something else") {
		t.Errorf("it says %v", err)
	}
	if text := printed(t, all, &verdictFlags{}); !strings.Contains(text, "not the same") {
		t.Error(text)
	}
}

func TestALogIsSavedAndRead(t *testing.T) {
	text := logText(t, "controller")
	for _, name := range []string{"cart.log", "cart.log.gz"} {
		file := filepath.Join(t.TempDir(), name)
		if err := saveLog(file, text); err != nil {
			t.Fatal(err)
		}
		if got, err := readLog(file); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if raw, err := os.ReadFile(file); err != nil || bytes.Equal(raw, text) != (name == "cart.log") {
			t.Errorf("%s is compressed or is not: %v", name, err)
		}
	}
}

func TestVerdictRefusesWhatMakesNoSense(t *testing.T) {
	for _, tt := range []struct {
		f    verdictFlags
		args []string
		want string
	}{
		{verdictFlags{}, nil, "name a release"},
		{verdictFlags{log: "x"}, []string{"cart"}, "leave out cart"},
		{verdictFlags{log: "x", alpha: 2}, nil, "--alpha 2"},
		{verdictFlags{log: "x", maxErrors: "0"}, nil, "--max-errors 0"},
		{verdictFlags{log: filepath.Join(t.TempDir(), "none")}, nil, "there is no file"},
	} {
		var out bytes.Buffer
		p := &Program{Stdout: &out, Stderr: &out}
		if err := p.verdict(t.Context(), &tt.f, tt.args); err == nil || !strings.Contains(fmt.Sprint(err), tt.want) {
			t.Errorf("%+v %v: %v, want %q", tt.f, tt.args, err, tt.want)
		}
	}
}
