package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/stats"
)

var noon = time.Date(2026, 5, 21, 12, 0, 0, 0, time.UTC)

// open opens the journal of a directory at a time.
func open(t *testing.T, dir string, now *time.Time, change func(*Journal)) *Journal {
	t.Helper()
	j := &Journal{Dir: dir, Now: func() time.Time { return *now }}
	if change != nil {
		change(j)
	}
	if err := j.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func event(name string, ended time.Time) stats.Event {
	return stats.Event{Kind: stats.Deploy, ID: "d/" + name, Name: name, Ended: ended, Place: stats.Place{Tenant: "shop"}}
}

func add(t *testing.T, j *Journal, e stats.Event) bool {
	t.Helper()
	fresh, err := j.Append(e)
	if err != nil {
		t.Fatal(err)
	}
	return fresh
}

func names(t *testing.T, j *Journal, since time.Time) (all []string) {
	t.Helper()
	if err := j.Read(since, nil, func(e stats.Event) error { all = append(all, e.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestAnEventIsWrittenOnce(t *testing.T) {
	dir, now := t.TempDir(), noon
	j := open(t, dir, &now, nil)
	if !add(t, j, event("a", noon)) || add(t, j, event("a", noon)) {
		t.Error("a is written twice, or not at all")
	}
	now = noon.Add(time.Hour)
	again := open(t, dir, &now, nil) // by another process
	if add(t, again, event("a", noon)) || !add(t, again, event("b", now)) {
		t.Error("another process writes a again, or b not at all")
	}
	if got := names(t, again, noon.Add(-time.Hour)); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("it has %v", got)
	}
	if got := names(t, again, noon.Add(time.Minute)); !slices.Equal(got, []string{"b"}) {
		t.Errorf("since a minute after noon it has %v", got)
	}
	if !again.Begun().Equal(noon) {
		t.Errorf("it begins at %v", again.Begun())
	}
}

// TestAProcessThatIsKilledLosesNothingElse cuts the file at each byte.
func TestAProcessThatIsKilledLosesNothingElse(t *testing.T) {
	dir, now := t.TempDir(), noon
	j := open(t, dir, &now, nil)
	for _, name := range []string{"a", "b", "c"} {
		add(t, j, event(name, noon))
	}
	files, err := filepath.Glob(filepath.Join(dir, "events-*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	whole, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	line := len(whole) / 3
	for cut := range len(whole) {
		if err := os.WriteFile(files[0], whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j := open(t, dir, &now, nil)
		for i, name := range []string{"a", "b", "c"} {
			if fresh := add(t, j, event(name, noon)); fresh == (cut >= (i+1)*line) {
				t.Fatalf("cut at %d of %d: %s is written again: %v", cut, len(whole), name, fresh)
			}
		}
		if got := names(t, j, noon); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Fatalf("cut at %d: it has %v", cut, got)
		}
		_ = j.Close()
	}
}

func TestALineThatIsNoneIsPassedOver(t *testing.T) {
	dir, now := t.TempDir(), noon
	j := open(t, dir, &now, nil)
	add(t, j, event("a", noon))
	files, _ := filepath.Glob(filepath.Join(dir, "events-*"))
	f, err := os.OpenFile(files[0], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("\x00\x00{\"id\":\n"); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	j = open(t, dir, &now, nil)
	add(t, j, event("b", noon))
	if got := names(t, j, noon); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("it has %v", got)
	}
}

func TestWhatIsOlderThanAYearGoes(t *testing.T) {
	dir, now := t.TempDir(), noon
	j := open(t, dir, &now, nil)
	add(t, j, event("old", noon))
	now = noon.AddDate(0, 6, 0)
	add(t, j, event("new", now))
	now = noon.AddDate(1, 0, 2)
	if got := names(t, j, time.Time{}); !slices.Equal(got, []string{"new"}) {
		t.Errorf("after a year it tells of %v", got)
	}
	if add(t, j, event("older", noon)) {
		t.Error("what is older than a year is written down")
	}
	now = noon.AddDate(1, 1, 0)
	add(t, j, event("newest", now))
	files, _ := filepath.Glob(filepath.Join(dir, "events-*"))
	if len(files) != 2 {
		t.Errorf("there are %v", files)
	}
	if want := now.AddDate(-1, 0, 0); !j.Begun().Equal(want) {
		t.Errorf("it begins at %v, want %v", j.Begun(), want)
	}
}

func TestThereIsNeverTooMuch(t *testing.T) {
	dir, now := t.TempDir(), noon
	small := func(j *Journal) { j.MaxBytes, j.FileBytes = 20_000, 2_000 }
	j := open(t, dir, &now, small)
	for i := range 500 {
		now = now.Add(time.Minute)
		add(t, j, event(fmt.Sprintf("%03d", i), now))
	}
	size := int64(0)
	files, _ := filepath.Glob(filepath.Join(dir, "events-*"))
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > 22_500 || size < 15_000 {
		t.Errorf("it has %d bytes in %d files", size, len(files))
	}
	got := names(t, j, time.Time{})
	if got[len(got)-1] != "499" || len(got) > 400 {
		t.Errorf("it has %d events, the last is %s", len(got), got[len(got)-1])
	}
	// What was dropped does not come back though its object is still seen, and nobody
	// believes that everything of that time is known.
	j = open(t, dir, &now, small)
	if add(t, j, event("000", noon.Add(time.Minute))) {
		t.Error("what was dropped is written again")
	}
	if begun := j.Begun(); !begun.After(noon.Add(time.Hour)) {
		t.Errorf("it begins at %v", begun)
	}
	if n := len(j.ids); n != len(got) {
		t.Errorf("it remembers %d events of %d", n, len(got))
	}
}

func TestWhoReadsMayEnd(t *testing.T) {
	now := noon
	j := open(t, t.TempDir(), &now, nil)
	add(t, j, event("a", noon))
	add(t, j, event("b", noon))
	enough, n := errors.New("enough"), 0
	err := j.Read(time.Time{}, nil, func(stats.Event) error { n++; return enough })
	if !errors.Is(err, enough) || n != 1 {
		t.Errorf("%d events, %v", n, err)
	}
	none := func([]byte) bool { return false }
	if err := j.Read(time.Time{}, none, func(stats.Event) error { return enough }); err != nil {
		t.Error("a line that nobody wants is read")
	}
}
