package node

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseStat(t *testing.T) {
	const tail = " S 41 42 42 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 5 0 987654 1000 10 18446744073709551615 1 1 0"
	for name, c := range map[string]struct {
		text string
		want stat
		err  string
	}{
		"plain":                 {"42 (cart)" + tail, stat{42, 41, "S", 987654}, ""},
		"a name like a status":  {"42 (a) R 1 (b)" + tail, stat{42, 41, "S", 987654}, ""},
		"a name with a newline": {"42 (a\nb)" + tail, stat{42, 41, "S", 987654}, ""},
		"empty":                 {"", stat{}, "does not look like one"},
		"cut short":             {"42 (cart) S 41 42", stat{}, "does not look like one"},
		"a parent of letters":   {"42 (cart) S x" + strings.Repeat(" 1", 20), stat{}, "parent"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseStat(c.text)
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("error: got %v, want %q", err, c.err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("42 (cart) S 41 42 42 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 5 0 987654 1000")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := parseStat(text); err != nil && err.Error() == "" {
			t.Error("an error that says nothing")
		}
	})
}

func TestFirstIsTheOldest(t *testing.T) {
	for name, c := range map[string]struct {
		processes []stat
		want      int
	}{
		"one":                              {[]stat{{PID: 9, Started: 5}}, 9},
		"an exec later":                    {[]stat{{PID: 9, Started: 5}, {PID: 7, Started: 8}}, 9},
		"numbers that began anew":          {[]stat{{PID: 3, Parent: 32000, Started: 8}, {PID: 32000, Parent: 1, Started: 5}}, 32000},
		"a child in the same tick":         {[]stat{{PID: 3, Parent: 32000, Started: 5}, {PID: 32000, Parent: 1, Started: 5}}, 32000},
		"two of the same parent in a tick": {[]stat{{PID: 12, Parent: 1, Started: 5}, {PID: 11, Parent: 1, Started: 5}}, 11},
	} {
		t.Run(name, func(t *testing.T) {
			if got := first(c.processes).PID; got != c.want {
				t.Errorf("got process %d, want %d", got, c.want)
			}
		})
	}
}

func TestSandboxIsTheFirstPause(t *testing.T) {
	for name, c := range map[string]struct {
		commands []string
		want     int
	}{
		"containerd":           {[]string{"/pause\x00", "/cart\x00--pause\x00"}, 0},
		"OpenShift":            {[]string{"/usr/bin/pod\x00", "/cart\x00"}, 0},
		"none":                 {[]string{"/cart\x00", "/bin/sh\x00-c\x00pause\x00"}, -1},
		"a container of pause": {[]string{"/pause\x00", "/pause\x00"}, 0},
		"ended":                {[]string{"", "/cart\x00"}, -1},
		"no processes":         {nil, -1},
	} {
		t.Run(name, func(t *testing.T) {
			if got := sandbox(c.commands); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestEntries(t *testing.T) {
	for name, c := range map[string]struct {
		data string
		want []string
	}{
		"empty":                    {"", nil},
		"two":                      {"A=1\x00B=2\x00", []string{"A=1", "B=2"}},
		"a value with a newline":   {"A=1\n2\x00B=\x00", []string{"A=1\n2", "B="}},
		"written over by the app":  {"A=1\x00\x00\x00", []string{"A=1"}},
		"without the zero at last": {"A=1", []string{"A=1"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, entries(c.data)); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
		})
	}
}
