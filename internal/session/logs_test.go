package session

import (
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestACursorLosesAndRepeatsNothing(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(100, 0).Add(time.Duration(ms) * time.Millisecond) }
	log := []struct {
		at   time.Time
		text string
	}{{at(10), "a"}, {at(20), "b"}, {at(20), "c"}, {at(20), "d"}, {at(1500), "e"}, {at(1500), "f"}, {at(3000), "g"}}
	for cut := range len(log) + 1 {
		for again := range len(log) + 1 {
			c := cursor{at: at(0)}
			var got []string
			read := func(n int) {
				from := c.reopen()
				for _, line := range log[:n] {
					if !line.at.Before(from.Time) && c.isNew(line.at) {
						got = append(got, line.text)
					}
				}
			}
			read(cut)
			read(max(cut, again))
			read(len(log))
			if text := strings.Join(got, ""); text != "abcdefg" {
				t.Errorf("cut after %d and %d: %s", cut, again, text)
			}
		}
	}
}

func TestLinesFromBeforeTheSessionAreNotPrinted(t *testing.T) {
	since := time.Unix(100, 500)
	c := cursor{at: since}
	if from := c.reopen(); from.After(since) {
		t.Errorf("it reads from %s, after %s", from, since)
	}
	if c.isNew(since.Add(-1)) || !c.isNew(since.Add(1)) {
		t.Error("wrong")
	}
}

func TestStamped(t *testing.T) {
	for line, want := range map[string]string{
		"2026-11-21T04:05:45.976123456Z hello  world": "hello  world",
		"2026-11-21T04:05:45.976123456Z ":             "",
	} {
		if at, text, ok := stamped(line); !ok || text != want || at.Nanosecond() != 976123456 {
			t.Errorf("%q: %v, %q, %v", line, at, text, ok)
		}
	}
	if _, text, ok := stamped("no time here"); ok || text != "no time here" {
		t.Errorf("got %q, %v", text, ok)
	}
}

func TestReadLinesGivesEveryByteOfVeryLongLines(t *testing.T) {
	long := strings.Repeat("x", 2*longestLine+5)
	var got []string
	var wholes []bool
	err := readLines(iotest.HalfReader(strings.NewReader("a\r\n"+long+"\nb")), func(line string, whole bool) {
		got, wholes = append(got, line), append(wholes, whole)
	})
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(got, ""); text != "a"+long+"b" {
		t.Errorf("%d bytes, want %d", len(text), len(long)+2)
	}
	if want := []bool{true, true, false, false, true}; !slices.Equal(wholes, want) {
		t.Errorf("beginnings of lines: %v, want %v", wholes, want)
	}
}
