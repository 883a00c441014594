package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0},
		{[]float64{7}, 7},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.values, got, c.want)
		}
	}
}

func TestUpperIsReachedByTheRestAlone(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i)
	}
	for _, c := range []struct {
		values  []float64
		q, want float64
	}{
		{nil, 0.99, 0}, {[]float64{7}, 0.99, 7}, {hundred, 0.99, 99}, {hundred, 1, 100}, {hundred, 0.5, 50}, {hundred[:10], 0.99, 100}, {hundred, 0, 1},
	} {
		if got := upper(c.values, c.q); got != c.want {
			t.Errorf("upper of %d values and %v is %v, want %v", len(c.values), c.q, got, c.want)
		}
	}
}

func TestWhoWatchesIsCounted(t *testing.T) {
	const metrics = `# TYPE apiserver_longrunning_requests gauge
apiserver_longrunning_requests{component="apiserver",group="bight.dev",resource="releases",scope="cluster",subresource="",verb="WATCH",version="v1alpha1"} 2
apiserver_longrunning_requests{component="apiserver",group="bight.dev",resource="releases",scope="namespace",subresource="",verb="WATCH",version="v1alpha1"} 1
apiserver_longrunning_requests{component="apiserver",group="",resource="pods",scope="cluster",subresource="",verb="WATCH",version="v1"} 9
`
	if n, err := watching([]byte(metrics), "releases"); n != 3 || err != nil {
		t.Errorf("%d watch Releases, %v", n, err)
	}
}

func TestVerdictComparesTheRatioOrTheValueWithTheLimit(t *testing.T) {
	reference := &series{Unit: milliseconds, Values: []float64{100, 200, 300}}
	ours := func(v float64) series { return series{Unit: milliseconds, Values: []float64{v}} }
	for _, c := range []struct {
		name string
		row  row
		want string
	}{
		{"a ratio at the limit", row{Reference: reference, Ours: ours(100), Limit: 0.5}, "met"},
		{"a ratio above it", row{Reference: reference, Ours: ours(101), Limit: 0.5}, "missed"},
		{"a value below", row{Ours: ours(11), Limit: 12}, "met"},
		{"a value above", row{Ours: ours(13), Limit: 12}, "missed"},
		{"no limit", row{Ours: ours(13)}, ""},
		{"nothing measured", row{Limit: 12}, "not measured"},
		{"no reference measured", row{Reference: &series{}, Ours: ours(1), Limit: 12}, "not measured"},
	} {
		if got := c.row.verdict(); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestAPhaseThatAnEventDoesNotNameTookNoTime(t *testing.T) {
	got := phases([]event{
		{MS: map[string]float64{"build": 10, "send": 1}},
		{MS: map[string]float64{"build": 30}},
		{MS: map[string]float64{"build": 20}},
	})
	if diff := cmp.Diff(map[string]float64{"build": 20, "send": 0}, got); diff != "" {
		t.Error(diff)
	}
	if got := phases(nil); got != nil {
		t.Errorf("of no events: %v", got)
	}
}

func TestAReportIsReadBackAsItWasWritten(t *testing.T) {
	want := &report{Machine: machine{Processors: 2, System: "Debian", Before: 1, After: 2}, Samples: 1, Rows: []row{sample()}}
	var b bytes.Buffer
	if err := writeJSON(&b, want); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rows.json")
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := readRows(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Rows, got); diff != "" {
		t.Error(diff)
	}
}

func sample() row {
	reference := durations("a thing", []time.Duration{100 * time.Millisecond, 300 * time.Millisecond})
	return row{
		Bench: "static", Name: "a page", Reference: &reference, Limit: 0.2, Load: [2]float64{0.5, 1.25},
		Ours:   durations("ours", []time.Duration{5 * time.Millisecond, 15 * time.Millisecond}),
		Phases: map[string]float64{"total": 9, "send": 1.234},
	}
}

func TestTableAndMarkdownSayTheSame(t *testing.T) {
	r := &report{Samples: 2, Rows: []row{sample(), {Name: "agent", Ours: series{Unit: "MB", Values: []float64{7.5}}, Limit: 12}}}
	cells := []string{"a page", "200 ms [100–300]", "10.0 ms [5.00–15.0]", "0.05", "≤ 0.2 ×", "met", "7.50 MB", "< 12 MB", "send 1.23, total 9.00"}
	for _, format := range []string{"table", "markdown"} {
		write, err := writerOf(format)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := write(&b, r); err != nil {
			t.Fatal(err)
		}
		for _, cell := range cells {
			if !strings.Contains(b.String(), cell) {
				t.Errorf("%s has no %q:\n%s", format, cell, &b)
			}
		}
	}
}

func TestUnknownRowsAndFormatsAreRefused(t *testing.T) {
	if _, err := choose("static,statics"); err == nil || !strings.Contains(err.Error(), `"statics"`) {
		t.Errorf("-only statics: %v", err)
	}
	if chosen, err := choose("burst,static"); err != nil || len(chosen) != 2 || chosen[0].name != "burst" {
		t.Errorf("-only burst,static: %v, %v", chosen, err)
	}
	if _, err := writerOf("xml"); err == nil {
		t.Error("-o xml is accepted")
	}
}

func TestUsageIsReadFromProc(t *testing.T) {
	stat := "4242 (a (strange) name) S 1 4242 4242 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 12345 1000000 2500 18446744073709551615"
	status := "Name:\tx\nVmHWM:\t   20000 kB\nVmRSS:\t   10000 kB\nThreads:\t9\n"
	got, err := parseUsage(stat, status)
	want := usage{processor: 3 * time.Second, resident: 10000 << 10}
	if err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, bad := range [][2]string{{"", status}, {"1 (x) S 1", status}, {stat, "Name: x\n"}} {
		if got, err := parseUsage(bad[0], bad[1]); err == nil {
			t.Errorf("%q is read as %+v", bad, got)
		}
	}
}

func TestRequirementsKeepVersionsAndNothingElse(t *testing.T) {
	from := "module example.com/a\n\ngo 1.26.0\n\nrequire (\n\texample.com/b v1.2.3\n\texample.com/c v1.0.0 // indirect\n)\n\ntool example.com/b/cmd/x\n\nreplace example.com/b => ../b\n"
	got, err := requirements("new", []byte(from))
	if err != nil {
		t.Fatal(err)
	}
	want := "module example.com/new\n\ngo 1.26.0\n\nrequire (\n\texample.com/b v1.2.3\n)\n\nrequire (\n\texample.com/c v1.0.0 // indirect\n)\n"
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}
