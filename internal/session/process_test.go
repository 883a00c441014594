package session

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// reader prints what a process says.
type reader struct {
	process
	now   time.Time
	shown []string
}

func (r *reader) log(lines ...string) {
	for _, line := range lines {
		r.shown = append(r.shown, r.process.log(line, r.now)...)
	}
}

func (r *reader) exit(output ...string) (news bool, unseen string) {
	return r.exited([]byte(strings.Join(output, "\n")+"\n"), r.now)
}

func TestACrashIsShownOnceHoweverItsWordsCome(t *testing.T) {
	crash := []string{"starting", "panic: no luck 1"}
	for _, tt := range []struct {
		name       string
		play       func(r *reader) (unseen string)
		want       []string
		wantUnseen string
	}{
		{"panel first", func(r *reader) string {
			_, unseen := r.exit(crash...)
			r.log(crash...)
			return unseen
		}, nil, "starting\npanic: no luck 1"},
		{"log first", func(r *reader) string {
			r.log(crash...)
			_, unseen := r.exit(crash...)
			return unseen
		}, crash, ""},
		{"the panel between", func(r *reader) string {
			r.log(crash[0])
			_, unseen := r.exit(crash...)
			r.log(crash[1])
			return unseen
		}, crash[:1], "panic: no luck 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &reader{now: time.Unix(100, 0)}
			if unseen := tt.play(r); unseen != tt.wantUnseen {
				t.Errorf("the panel has %q, want %q", unseen, tt.wantUnseen)
			}
			if !slices.Equal(r.shown, tt.want) {
				t.Errorf("the log has %q, want %q", r.shown, tt.want)
			}
		})
	}
}

func TestACrashLoopIsAPanelNowAndThen(t *testing.T) {
	r := &reader{now: time.Unix(100, 0)}
	panels := 0
	crash := func(output ...string) {
		r.started(r.now)
		r.log(output...)
		if news, _ := r.exit(output...); news {
			panels++
		}
		r.log(output...) // late
		r.now = r.now.Add(20 * time.Second)
	}
	r.log("hello")
	var after []int
	for i := range 16 { // every 20 s
		crash("pid "+string(rune('1'+i%9)), "panic: at 0xc000"+string(rune('1'+i%9)))
		after = append(after, panels)
	}
	if want := []int{1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4}; !slices.Equal(after, want) {
		t.Errorf("panels after each crash: %v, want %v", after, want)
	}
	crash("panic: for another reason")
	if panels != 5 {
		t.Errorf("%d panels after another crash, want 5", panels)
	}
	crash("panic: for another reason")
	if panels != 5 {
		t.Errorf("%d panels after the same again, want 5", panels)
	}
	if n := len(r.shown); n > 4 {
		t.Errorf("%d lines of log: %q", n, r.shown)
	}
}

func TestACrashOfAProcessThatServedIsNews(t *testing.T) {
	r := &reader{now: time.Unix(100, 0)}
	for i := range 3 {
		r.started(r.now)
		r.up()
		r.now = r.now.Add(settled)
		if news, unseen := r.exit("panic: a request", "stack"); !news || unseen != "panic: a request\nstack" {
			t.Errorf("crash %d: news %t with %q", i+1, news, unseen)
		}
	}
	r.started(r.now)
	if news, _ := r.exit("panic: a request", "stack"); news {
		t.Error("one that did not serve is news, so soon after")
	}
}

func TestAProcessThatHealsIsHeardAgain(t *testing.T) {
	for name, heal := range map[string]func(r *reader){
		"by a save":           func(r *reader) { r.edited(); r.started(r.now) },
		"by itself":           func(r *reader) { r.started(r.now); r.up() },
		"and lives for a bit": func(r *reader) { r.started(r.now); r.now = r.now.Add(settled) },
	} {
		t.Run(name, func(t *testing.T) {
			r := &reader{now: time.Unix(100, 0)}
			r.exit("panic")
			heal(r)
			r.log("fine")
			if !slices.Equal(r.shown, []string{"fine"}) {
				t.Errorf("got %q", r.shown)
			}
		})
	}
}

func TestWhatIsHeldBackIsPrintedWhenTheProcessLives(t *testing.T) {
	r := &reader{now: time.Unix(100, 0)}
	r.exit("panic")
	r.started(r.now)
	r.log("first")
	if len(r.shown) > 0 {
		t.Errorf("got %q before it serves", r.shown)
	}
	r.shown = append(r.shown, r.up()...)
	if want := []string{"first"}; !slices.Equal(r.shown, want) { // though it says no more
		t.Errorf("got %q, want %q", r.shown, want)
	}
	r.log("second")
	if want := []string{"first", "second"}; !slices.Equal(r.shown, want) {
		t.Errorf("got %q, want %q", r.shown, want)
	}
}

// A process that never serves may wait for something, and say so in one line.
func TestWhatIsHeldBackIsPrintedInTheEnd(t *testing.T) {
	r := &reader{now: time.Unix(100, 0)}
	r.exit("panic")
	r.started(r.now)
	r.log("waiting for the database")
	if lines := r.ripe(r.now.Add(settled / 2)); len(lines) > 0 {
		t.Errorf("got %q at once", lines)
	}
	if lines := r.ripe(r.now.Add(settled)); !slices.Equal(lines, []string{"waiting for the database"}) {
		t.Errorf("got %q", lines)
	}
}
