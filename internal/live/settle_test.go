package live

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestACrowdIsToldWhenItIsQuiet has a file change each half millisecond.
func TestACrowdIsToldWhenItIsQuiet(t *testing.T) {
	const window = 20 * time.Millisecond
	for _, tt := range []struct {
		name    string
		changes int
		batches []int // paths in each
		last    time.Duration
	}{
		{"a few", 30, []int{1, 1, 1, 27}, window + time.Millisecond + time.Millisecond/2}, // a window after the first that waits
		{"many", 150, []int{1, 1, 1, 147}, 150*time.Millisecond/2 - time.Millisecond/2 + window},
		{"more than is waited for", 500, []int{1, 1, 1, 201, 201, 95}, 500*time.Millisecond/2 - time.Millisecond/2 + window},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := settler{window: window}
			epoch := time.Unix(1000, 0)
			now, next := epoch, epoch
			var got []int
			for i := 0; i < tt.changes || !s.empty(); {
				if i < tt.changes && !next.After(now) {
					s.add(now, change{path: fmt.Sprint(i)})
					i++
					next = epoch.Add(time.Duration(i) * time.Millisecond / 2)
				}
				wait := time.Duration(1 << 62)
				if !s.empty() {
					if wait = s.due(now); wait == 0 {
						got = append(got, len(s.take(now).Paths))
						continue
					}
				}
				if i < tt.changes {
					wait = min(wait, next.Sub(now))
				}
				now = now.Add(wait)
			}
			if d := cmp.Diff(tt.batches, got); d != "" {
				t.Errorf("batches (-want +got):\n%s", d)
			}
			if last := now.Sub(epoch); last != tt.last {
				t.Errorf("the last is told after %s, want %s", last, tt.last)
			}
		})
	}
}

func TestSettle(t *testing.T) {
	const ms = time.Millisecond
	type step struct {
		at   time.Duration
		c    change
		want string // of the batch that is told now, or when to ask again
	}
	closed := func(p string) change { return change{path: p} }
	fresh := func(p string) change { return change{path: p, writing: true, fresh: true} }
	writing := func(p string) change { return change{path: p, writing: true} }
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"a saved file is told when it is closed", []step{
			{0, writing("a"), "20ms"}, {1 * ms, closed("a"), "[a]"},
		}},
		{"a file that stays open is told after the window", []step{
			{0, writing("a"), "20ms"}, {5 * ms, writing("a"), "15ms"}, {20 * ms, writing("a"), "[a]"}, {90 * ms, closed("a"), "[a]"},
		}},
		{"a rename is told at once", []step{{0, change{path: "a", gone: true}, "[a]"}}},
		{"an atomic save tells of the file that was meant only", []step{
			{0, fresh("a~"), "20ms"}, {1 * ms, closed("a~"), "19ms"},
			{2 * ms, change{path: "a~", gone: true}, "nothing"}, {2 * ms, closed("a"), "[a]"},
		}},
		{"a file that was deleted before it came and went is told", []step{
			{0, writing("b"), "20ms"}, {0, change{path: "a", gone: true}, "20ms"},
			{1 * ms, fresh("a"), "19ms"}, {2 * ms, closed("a"), "18ms"},
			{3 * ms, change{path: "a", gone: true}, "17ms"}, {20 * ms, closed("b"), "[a b]"},
		}},
		{"a new file is told after the window", []step{
			{0, fresh("a"), "20ms"}, {1 * ms, closed("a"), "19ms"}, {20 * ms, closed("a"), "[a]"},
		}},
		{"a burst is told once a window", []step{
			{0, closed("1"), "[1]"}, {1 * ms, closed("2"), "[2]"}, {2 * ms, closed("3"), "[3]"},
			{3 * ms, closed("4"), "20ms"}, {4 * ms, closed("5"), "19ms"}, {23 * ms, closed("6"), "[4 5 6]"},
			{24 * ms, closed("7"), "20ms"},
		}},
		{"after a pause a save is told at once again", []step{
			{0, closed("1"), "[1]"}, {1 * ms, closed("2"), "[2]"}, {2 * ms, closed("3"), "[3]"},
			{3 * ms, closed("4"), "20ms"}, {23 * ms, closed("4"), "[4]"}, {50 * ms, closed("a"), "[a]"},
		}},
		{"two files wait for the window", []step{
			{0, writing("a"), "20ms"}, {0, writing("b"), "20ms"}, {1 * ms, closed("a"), "19ms"}, {2 * ms, closed("b"), "18ms"},
		}},
		{"lost events", []step{{0, change{overflow: true}, "20ms"}, {20 * ms, closed("a"), "[a] and everything"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := settler{window: 20 * ms}
			epoch := time.Unix(1000, 0)
			for _, st := range tt.steps {
				now := epoch.Add(st.at)
				s.add(now, st.c)
				got := ""
				if s.empty() {
					got = "nothing"
				} else if wait := s.due(now); wait > 0 {
					got = wait.String()
				} else {
					b := s.take(now)
					got = fmt.Sprint(b.Paths)
					if b.Rescan {
						got += " and everything"
					}
				}
				if d := cmp.Diff(st.want, got); d != "" {
					t.Errorf("at %s: -want +got:\n%s", st.at, d)
				}
			}
		})
	}
}
