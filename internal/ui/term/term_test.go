package term

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                                     "0 ms",
		1:                                     "0.1 ms",
		400 * time.Microsecond:                "0.4 ms",
		949 * time.Microsecond:                "0.9 ms",
		950 * time.Microsecond:                "1 ms",
		84*time.Millisecond + 400_000:         "84 ms",
		999*time.Millisecond + 400_000:        "999 ms",
		999*time.Millisecond + 600_000:        "1.0 s",
		1234 * time.Millisecond:               "1.2 s",
		9949 * time.Millisecond:               "9.9 s",
		9960 * time.Millisecond:               "10 s",
		59*time.Second + 600*time.Millisecond: "1 min 0 s",
		125 * time.Second:                     "2 min 5 s",
		63 * time.Minute:                      "1 h 3 min",
		-84 * time.Millisecond:                "-84 ms",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%d): got %q, want %q", d, got, want)
		}
	}
	Duration(math.MinInt64) // has no positive
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 812: "812 B", 999: "999 B", 1000: "1 kB", 214_331: "214 kB", 999_499: "999 kB", 999_500: "1.0 MB",
		3_400_000: "3.4 MB", 9_949_000: "9.9 MB", 9_950_000: "10 MB", 1_500_000_000: "1.5 GB", math.MaxInt64: "9223 PB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d): got %q, want %q", n, got, want)
		}
	}
}

func TestCut(t *testing.T) {
	for _, tt := range []struct {
		s    string
		n    int
		want string
	}{
		{"cart", 4, "cart"},
		{"catalog", 4, "cat…"},
		{"日本語", 6, "日本語"},
		{"日本語", 5, "日本…"},
		{"日本語", 4, "日…"},
		{"e\u0301e\u0301e\u0301", 3, "e\u0301e\u0301e\u0301"},
		{"e\u0301e\u0301e\u0301", 2, "e\u0301…"},
		{"abc", 0, ""},
	} {
		if got := cut(tt.s, tt.n); got != tt.want {
			t.Errorf("cut(%q, %d): got %q, want %q", tt.s, tt.n, got, tt.want)
		}
	}
}

func TestLineCutCountsAcrossStyles(t *testing.T) {
	l := line{{bold, "cart"}, {plain, "  "}, {faint, "main.go"}}
	for n, want := range map[int]string{0: "cart  main.go", 13: "cart  main.go", 12: "cart  main.…", 6: "cart …", 4: "car…", 1: "…"} {
		var b bytes.Buffer
		l.cut(n).render(&b, false)
		if got := b.String(); got != want {
			t.Errorf("cut at %d: got %q, want %q", n, got, want)
		}
	}
}

func TestCleanKeepsTheTerminalSafe(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                       "plain",
		"two\nlines":                  `two\nlines`,
		"\x1b[2Jgone":                 `\x1b[2Jgone`,
		"a\tb":                        "a    b",
		"bad \xff utf8":               "bad \uFFFD utf8",
		"right \u202eto left":         "right to left",
		"\u009b31mone byte of colour": `\x9b31mone byte of colour`,
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q): got %q, want %q", in, got, want)
		}
	}
}

func TestCleanLog(t *testing.T) {
	for _, tt := range []struct{ in, colored, plain string }{
		{"plain", "plain", "plain"},
		{"\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m\x1b[0m", "red"},
		{"\x1b[38;5;12mx", "\x1b[38;5;12mx\x1b[0m", "x"},
		{"10%\r20%\r30%", "30%", "30%"},
		{"\x1b[2J\x1b[Hcleared", "cleared", "cleared"},
		{"\x1b]0;title\aafter", "after", "after"},
		{"\x1b]8;;http://x\x1b\\link", "link", "link"},
		{"\x1b[>0mnot a colour", "not a colour", "not a colour"},
		{"unfinished \x1b[31", "unfinished ", "unfinished "},
		{"unfinished \x1b]0;t", "unfinished ", "unfinished "},
		{"end \x1b", "end ", "end "},
		{"\x1bcreset", "reset", "reset"},
		{"\x1b[3\x01m", `\x01m`, `\x01m`},
	} {
		if got := cleanLog(tt.in, true); got != tt.colored {
			t.Errorf("cleanLog(%q, true): got %q, want %q", tt.in, got, tt.colored)
		}
		if got := cleanLog(tt.in, false); got != tt.plain {
			t.Errorf("cleanLog(%q, false): got %q, want %q", tt.in, got, tt.plain)
		}
	}
}

func FuzzCleanLog(f *testing.F) {
	f.Add("\x1b[31mred\x1b[0m \x1b]0;t\a x\ry")
	f.Add("\x1b\x1b[\x1b[1;\u202e\xff")
	f.Fuzz(func(t *testing.T, s string) {
		if got := cleanLog(s, false); !safe(got) {
			t.Errorf("cleanLog(%q, false) = %q", s, got)
		}
		rest := cleanLog(s, true)
		for {
			i := strings.IndexByte(rest, '\x1b')
			if i < 0 {
				break
			}
			n, color := escape(rest[i:])
			if !color {
				t.Fatalf("cleanLog(%q, true) leaves %q", s, rest[i:])
			}
			rest = rest[:i] + rest[i+n:]
		}
		if !safe(rest) {
			t.Errorf("cleanLog(%q, true) leaves %q", s, rest)
		}
	})
}

func FuzzEventFitsTheScreen(f *testing.F) {
	f.Add("cart", "go ./cart", "main.go:3", 80)
	f.Add("日本語", "a\nb\x1b[2J", "", 20)
	f.Fuzz(func(t *testing.T, service, text, why string, width int) {
		if width < 1 || width > 500 {
			return
		}
		k := look{zone: time.UTC, colors: map[string]string{}}
		k.meet(service)
		for _, typ := range []Type{Plan, Build, Sync} {
			for _, l := range k.event(Event{Type: typ, Service: service, Text: text, Why: why, Took: time.Second, Files: 3}, width) {
				if got := l.columns(); got > width {
					t.Errorf("%s takes %d columns of %d: %q", typ, got, width, l)
				}
			}
		}
	})
}

func TestColoursCanBeReadOnBlackAndOnWhite(t *testing.T) {
	for _, style := range append([]string{faint, good, bad, caution}, palette[:]...) {
		n, err := strconv.Atoi(strings.TrimPrefix(style, "38;5;"))
		if err != nil {
			t.Fatal(err)
		}
		l := luminance(n)
		onBlack, onWhite := (l+0.05)/0.05, 1.05/(l+0.05)
		if onBlack < 3 || onWhite < 3 {
			t.Errorf("colour %d has contrast %.1f on black and %.1f on white, want at least 3", n, onBlack, onWhite)
		}
	}
}

// luminance is that of colour n of the 256, as WCAG defines it.
func luminance(n int) float64 {
	var rgb [3]int
	if n >= 232 {
		g := 8 + 10*(n-232)
		rgb = [3]int{g, g, g}
	} else {
		level := [...]int{0, 95, 135, 175, 215, 255}
		rgb = [3]int{level[(n-16)/36], level[(n-16)/6%6], level[(n-16)%6]}
	}
	sum := 0.0
	for i, weight := range [3]float64{0.2126, 0.7152, 0.0722} {
		c := float64(rgb[i]) / 255
		if c <= 0.03928 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		sum += weight * c
	}
	return sum
}

func TestServicesHaveColoursOfTheirOwn(t *testing.T) {
	k := look{colors: map[string]string{}}
	seen := map[string]string{}
	for i := range palette {
		s := fmt.Sprintf("service-%d", i)
		k.meet(s)
		if other, ok := seen[k.colors[s]]; ok {
			t.Errorf("%s looks like %s", s, other)
		}
		seen[k.colors[s]] = s
	}
	k.meet("one-more")
	if k.colors["one-more"] == "" {
		t.Error("the service after the last colour has none")
	}
}

func TestSplitErrors(t *testing.T) {
	inner := errors.New("connection refused")
	for _, tt := range []struct {
		err    error
		want   []string
		output string
	}{
		{inner, []string{"connection refused"}, ""},
		{fmt.Errorf("push cart: %w", inner), []string{"push cart", "connection refused"}, ""},
		{fmt.Errorf("up: %w", fmt.Errorf("push cart: %w", inner)), []string{"up", "push cart", "connection refused"}, ""},
		{fmt.Errorf("push cart: %w (tried twice)", inner), []string{"push cart: connection refused (tried twice)"}, ""},
		{errors.Join(inner), []string{"connection refused"}, ""},
		{errors.New("service cart does not compile:\nmain.go:3:1: oops"), []string{"service cart does not compile"}, "main.go:3:1: oops"},
		{fmt.Errorf("build: %w", errors.New("cart does not compile:\na\nb")), []string{"build", "cart does not compile"}, "a\nb"},
	} {
		causes, output := split(tt.err)
		if diff := cmp.Diff(tt.want, causes); diff != "" || output != tt.output {
			t.Errorf("split(%q): output %q, causes (-want +got):\n%s", tt.err, output, diff)
		}
	}
}

func TestOutputIsNeverAWall(t *testing.T) {
	var all []string
	for i := range 100 {
		all = append(all, fmt.Sprintf("line %d", i))
	}
	var out bytes.Buffer
	p := New(Config{Err: Stream{W: &out}})
	p.Fail("cart", errors.New("crashed"), strings.Join(all, "\n"), "")
	got := out.String()
	if n := strings.Count(got, "\n"); n != 1+outputHead+1+outputTail {
		t.Errorf("%d lines:\n%s", n, got)
	}
	for _, want := range []string{"│ line 0\n", "│ line 15\n", "┆ 76 lines more\n", "│ line 92\n", "│ line 99\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}

func TestTable(t *testing.T) {
	table := &Table{
		Head:     []string{"SERVICE", "READY", "IMAGE", "URL"},
		Services: true,
		Rows: [][]string{
			{"cart", "✓ 1/1", "sha256:3f2a81c09b77", "http://cart.shop-ada.localhost:8000"},
			{"recommendations", "✗ 0/1", "sha256:11", ""},
			{"日本", "! 1/2", "", "http://x"},
		},
	}
	var out bytes.Buffer
	p := New(Config{Out: Stream{W: &out, Width: func() int { return 60 }}})
	if err := p.Data(nil, table); err != nil {
		t.Fatal(err)
	}
	if err := p.Data(nil, &Table{Empty: "Nothing is deployed in namespace shop-ada."}); err != nil {
		t.Fatal(err)
	}
	golden(t, "table", out.Bytes())
}

func TestDataAsJSON(t *testing.T) {
	var out, errs bytes.Buffer
	p := New(Config{Out: Stream{W: &out}, Err: Stream{W: &errs}, JSON: true})
	p.Note("", "on Err")
	if err := p.Data(map[string]string{"url": "a&b"}, &Table{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("{\n  \"url\": \"a&b\"\n}\n", out.String()); diff != "" {
		t.Error(diff)
	}
	if !json.Valid(errs.Bytes()) || !strings.Contains(errs.String(), "on Err") {
		t.Errorf("Err has %q", errs.String())
	}
}

func TestEventsAreWrittenBesideTheText(t *testing.T) {
	var text, events bytes.Buffer
	p := New(Config{Err: Stream{W: &text}, Events: &events, Zone: time.UTC})
	at := time.Date(2026, 3, 1, 12, 4, 5, 678_900_000, time.UTC)
	p.Event(Event{
		Time: at, Type: Sync, Service: "cart", Text: "main.go", Took: 412 * time.Millisecond, Files: 1, Bytes: 214_331,
		Phases: []Phase{{"build", 310_040 * time.Microsecond}, {"send", 18_060 * time.Microsecond}},
	})
	want := `{"time":"2026-03-01T12:04:05.679Z","type":"sync","service":"cart","text":"main.go","ms":{"build":310,"send":18.1,"total":412},"bytes":214331,"files":1}` + "\n"
	if diff := cmp.Diff(want, events.String()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff("12:04:05 ✓ cart  main.go  saved → live 412 ms  (build 310 · send 18)  1 file 214 kB\n", text.String()); diff != "" {
		t.Error(diff)
	}
}

func TestEnvironmentDecidesOnColourAndDrawing(t *testing.T) {
	for _, tt := range []struct {
		env           string
		terminal      bool
		color, redraw bool
	}{
		{"", true, true, true},
		{"", false, false, false},
		{"NO_COLOR=1", true, false, true},
		{"NO_COLOR=1 CLICOLOR_FORCE=1", true, false, true},
		{"CLICOLOR_FORCE=1", false, true, false},
		{"CLICOLOR_FORCE=0", false, false, false},
		{"CLICOLOR=0", true, false, true},
		{"TERM=dumb", true, false, false},
		{"TERM=dumb CLICOLOR_FORCE=1", true, true, false},
		{"CI=true", true, true, false},
		{"CI=false", true, true, true},
	} {
		env := map[string]string{}
		for _, kv := range strings.Fields(tt.env) {
			k, v, _ := strings.Cut(kv, "=")
			env[k] = v
		}
		getenv := func(k string) string { return env[k] }
		if got := wantColor(tt.terminal, getenv); got != tt.color {
			t.Errorf("%q, terminal %v: colour %v, want %v", tt.env, tt.terminal, got, tt.color)
		}
		if got := wantRedraw(tt.terminal, getenv); got != tt.redraw {
			t.Errorf("%q, terminal %v: redraw %v, want %v", tt.env, tt.terminal, got, tt.redraw)
		}
	}
}

// TestLinesAreNeverMixed has everything happen at once.
func TestLinesAreNeverMixed(t *testing.T) {
	var out bytes.Buffer
	s := Stream{W: &out, Width: func() int { return 100 }}
	p := New(Config{Out: s, Err: s, Events: io.Discard, Redraw: true, Zone: time.UTC})
	var wg sync.WaitGroup
	const each = 50
	for i := range 8 {
		wg.Go(func() {
			service := fmt.Sprintf("service-%d", i)
			for n := range each {
				task := p.Task(Build, service, "building")
				p.Log(service, fmt.Sprintf("line %d of %s.", n, service))
				task.Update("linking")
				if n%2 == 0 {
					task.Done(Event{Text: "end."})
				} else {
					task.Drop()
				}
			}
		})
	}
	wg.Wait()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(screen(out.String()), "\n"), "\n")
	if want := 8 * (each + each/2); len(lines) != want {
		t.Errorf("%d lines on the screen, want %d", len(lines), want)
	}
	for _, l := range lines {
		if !strings.HasSuffix(l, ".") || strings.Count(l, "service-") > 2 {
			t.Errorf("mixed up: %q", l)
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestCloseTellsOfBrokenWrites(t *testing.T) {
	p := New(Config{Err: Stream{W: full{}}})
	p.Note("", "lost")
	if err := p.Close(); err == nil || err.Error() != "no space left" {
		t.Errorf("Close: %v", err)
	}
}

func TestReminders(t *testing.T) {
	for age, want := range map[time.Duration]time.Duration{
		0:                10 * time.Second,
		10 * time.Second: 30 * time.Second,
		31 * time.Second: time.Minute,
		61 * time.Second: 2 * time.Minute,
	} {
		if got := reminder(age); got != want {
			t.Errorf("reminder(%v): got %v, want %v", age, got, want)
		}
	}
}

func BenchmarkLogUnderAStatusLine(b *testing.B) {
	p := New(Config{Out: Stream{W: io.Discard, Color: true}, Err: Stream{W: io.Discard, Color: true, Width: func() int { return 120 }}, Redraw: true})
	defer p.Close()
	defer p.Task(Build, "cart", "building").Drop()
	for b.Loop() {
		p.Log("cart", "level=INFO msg=\"GET /carts/GZ7\" status=200 took=20µs")
	}
}
