package term

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var (
	update = flag.Bool("update", false, "write the golden files anew")
	view   = flag.Bool("view", false, "play the session on this terminal: go test -c . && ./term.test -run TestSession -view")
)

// play is a session of the example shop: start, two saves, one that does not
// compile, one that crashes, and the way out.
func play(p *Printer) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	wait := time.Sleep
	p.Header(Header{
		App:       "shop",
		Services:  []string{"cart", "catalog", "checkout", "frontend", "payment", "shipping", "web"},
		Context:   "bight",
		Namespace: "shop-ada",
	})
	p.Event(Event{Type: Plan, Service: "cart", Text: "go ./cart, http 7002", Why: "flag -addr, cart/main.go:23"})
	p.Event(Event{Type: Plan, Service: "catalog", Text: "go ./catalog, grpc 7001", Why: "default of $PORT, catalog/main.go:37"})
	p.Event(Event{Type: Plan, Service: "checkout", Text: "go ./checkout, http 7003 → cart, catalog, payment, shipping", Why: "default of $PORT, checkout/main.go:65"})
	p.Event(Event{Type: Plan, Service: "web", Text: "static ./web", Why: "web/index.html"})
	p.Warn("", "frontend/.env is not read: Bight takes variables from the code and bight.yaml", "")

	cart := p.Task(Build, "cart", "building")
	catalog := p.Task(Build, "catalog", "building")
	checkout := p.Task(Build, "checkout", "building")
	p.Event(Event{Type: Build, Service: "web", Cached: true, Text: "same inputs as build 3f2a81c09b77"})
	wait(ms(1234))
	cart.Done(Event{Bytes: 6_872_681})
	catalog.Done(Event{Bytes: 11_874_288})
	checkout.Update("linking")
	wait(ms(11_000))
	checkout.Done(Event{Bytes: 14_174_370})
	p.Event(Event{Type: Push, Service: "cart", Took: ms(84), Bytes: 6_872_681, Text: "1 layer"})
	p.Event(Event{Type: Push, Service: "web", Took: 400 * time.Microsecond, Text: "nothing was missing"})
	p.Event(Event{Type: Deploy, Took: ms(61), Text: "23 objects, 4 changed"})
	p.Event(Event{Type: Ready, Service: "cart", Took: ms(340)})
	p.Event(Event{Type: Ready, Service: "checkout", Took: ms(1890), Text: "2 of 2 pods"})
	p.URLs([]URL{
		{"web", "http://web.shop-ada.localhost:8000", ""},
		{"catalog", "http://catalog.shop-ada.localhost:8000", "gRPC"},
		{"checkout", "http://checkout.shop-ada.localhost:8000", ""},
	})
	p.Note("", "watching 214 files; Ctrl-C ends the session and leaves the app running")

	wait(ms(2500))
	p.Log("cart", "level=INFO msg=\"POST /carts/GZ7\" status=200 took=80µs\nlevel=INFO msg=\"GET /carts/GZ7\" status=200 took=20µs\n")
	p.Event(Event{
		Type: Sync, Service: "cart", Text: "main.go", Took: ms(412), Files: 1, Bytes: 214_331,
		Phases: []Phase{{"build", ms(310)}, {"send", ms(18)}, {"restart", ms(9)}, {"ready", ms(22)}},
	})
	p.Event(Event{
		Type: Sync, Service: "web", Text: Files([]string{"index.html", "style.css", "app.js"}), Took: ms(19), Files: 3, Bytes: 15_404,
		Phases: []Phase{{"send", ms(14)}},
	})
	p.Fail("cart", errors.New("does not compile"),
		"cart/main.go:31:7: undefined: crats\ncart/main.go:40:12: too many return values\n\thave (shop.Cart, nil)\n\twant (any)\n",
		"the version before goes on serving; the next save tries again")
	p.Log("checkout", "\x1b[31mpanic:\x1b[0m runtime error: index out of range [3]\x1b[2J\x1b[H")
	p.Fail("checkout", fmt.Errorf("restart the process: %w", errors.New("it exited with code 2 after 14 ms, before anything listened on port 7003")),
		"panic: runtime error: index out of range [3] with length 3\n\ngoroutine 1 [running]:\nmain.main()\n\t/srv/app/main.go:29 +0x1d\n",
		"its last words are above; save a fix and it is started again at once")
	deny := fmt.Errorf("deploy shop: %w", fmt.Errorf("apply Deployment shop-ada/payment: %w",
		errors.New(`deployments.apps "payment" is forbidden: User "ada" cannot patch resource "deployments" in API group "apps" in the namespace "shop-ada"`)))
	p.Fail("payment", deny, "", "ask for the role edit in namespace shop-ada, or name a namespace of your own with -n")
}

var sizes = []struct {
	name  string
	width int
	color bool
	draw  bool
	json  bool
}{
	{"plain", 0, false, false, false},
	{"80", 80, false, false, false},
	{"120", 120, false, false, false},
	{"color", 120, true, false, false},
	{"json", 0, false, false, true},
}

func TestSession(t *testing.T) {
	if *view {
		p := New(Detect(os.Stdout, os.Stderr, os.Getenv))
		play(p)
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, size := range sizes {
		t.Run(size.name, func(t *testing.T) {
			var out bytes.Buffer
			synctest.Test(t, func(t *testing.T) {
				s := Stream{W: &out, Color: size.color, Width: func() int { return size.width }}
				p := New(Config{Out: s, Err: s, JSON: size.json, Zone: time.UTC})
				play(p)
				if err := p.Close(); err != nil {
					t.Fatal(err)
				}
			})
			golden(t, "session-"+size.name, out.Bytes())
			if size.width > 0 && !size.color {
				for l := range strings.Lines(out.String()) {
					// Output of programs and URLs are never cut.
					if n := columnsOf(strings.TrimRight(l, "\n")); n > size.width && !strings.Contains(l, "│") {
						t.Errorf("%d columns on a screen of %d: %s", n, size.width, l)
					}
				}
			}
		})
	}
}

// TestRedraw looks at the screen of a small terminal while work goes on.
func TestRedraw(t *testing.T) {
	var out bytes.Buffer
	var shots []string
	synctest.Test(t, func(t *testing.T) {
		s := Stream{W: &out, Width: func() int { return 60 }}
		p := New(Config{Out: s, Err: s, Redraw: true, Zone: time.UTC})
		shoot := func(what string) {
			synctest.Wait()
			shots = append(shots, "--- "+what+"\n"+screen(out.String()))
		}
		a := p.Task(Build, "cart", "building")
		shoot("one task")
		b := p.Task(Build, "catalog", "building")
		c := p.Task(Push, "recommendations", "sending")
		time.Sleep(1250 * time.Millisecond)
		shoot("three tasks, one does not fit")
		p.Log("frontend", "a line above")
		shoot("a log line stands above the status")
		a.Done(Event{Bytes: 6_872_681})
		b.Fail(errors.New("does not compile"), "main.go:1:1: expected 'package'", "")
		shoot("two ended")
		c.Update("sending 4 of 9 layers")
		time.Sleep(200 * time.Millisecond)
		shoot("updated")
		c.Drop()
		c.Done(Event{}) // does nothing any more
		shoot("all ended")
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	})
	golden(t, "redraw", []byte(strings.Join(shots, "")))
}

func TestStatusLineIsErasedWhenThePrinterIsClosedInTheMiddleOfWork(t *testing.T) {
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{Err: Stream{W: &out}, Redraw: true})
		p.Task(Build, "cart", "building")
		synctest.Wait()
		p.Close()
		p.Close()
	})
	if got := screen(out.String()); strings.TrimSpace(got) != "" {
		t.Errorf("left on the screen: %q", got)
	}
}

// screen plays what was written on a terminal that knows "\r", "\n" and "erase
// to the end of the line", and returns what can be read then.
func screen(s string) string {
	lines := [][]rune{nil}
	col := 0
	for s != "" {
		switch {
		case strings.HasPrefix(s, "\x1b[K"):
			last := &lines[len(lines)-1]
			*last = (*last)[:min(col, len(*last))]
			s = s[3:]
			continue
		case s[0] == '\r':
			col = 0
		case s[0] == '\n':
			lines, col = append(lines, nil), 0
		default:
			r, n := utf8.DecodeRuneInString(s)
			last := &lines[len(lines)-1]
			*last = append((*last)[:min(col, len(*last))], append([]rune{r}, (*last)[min(col+1, len(*last)):]...)...)
			col++
			s = s[n:]
			continue
		}
		s = s[1:]
	}
	var b strings.Builder
	for _, l := range lines {
		if len(l) > 0 {
			b.WriteString(strings.TrimRight(string(l), " ") + "\n")
		}
	}
	return b.String()
}

// spinner is the part of the status line that tells nothing.
var spinner = regexp.MustCompile(`[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]`)

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	got = spinner.ReplaceAll(got, []byte("*"))
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}
