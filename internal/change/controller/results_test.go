package controller

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change/work"
)

const (
	key1 = "11111111111111111111111111111111"
	key2 = "22222222222222222222222222222222"
)

// shop is an App of a name, the first or a later one.
func shop(name, uid string) *v1alpha1.App {
	a := &v1alpha1.App{}
	a.Namespace, a.Name, a.UID = "team", name, types.UID(uid)
	return a
}

func newResults(t *testing.T) (*results, *bytes.Buffer) {
	log := &bytes.Buffer{}
	return &results{dir: t.TempDir(), log: slog.New(slog.NewTextHandler(log, nil)), now: time.Now}, log
}

// asked is what a worker is answered.
func asked(t *testing.T, r *results, a *v1alpha1.App, names ...string) map[string]string {
	t.Helper()
	body, err := json.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	r.serve(w, httptest.NewRequest("POST", "/", bytes.NewReader(body)), a)
	got := map[string][]byte{}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("%v in %d %s", err, w.Code, w.Body)
	}
	out := map[string]string{}
	for name, b := range got {
		out[name] = string(b)
	}
	return out
}

func TestResultsAreOfOneAppAndOneClass(t *testing.T) {
	r, _ := newResults(t)
	a := shop("shop", "1")
	for untrusted, text := range map[bool]string{false: "ours", true: "a stranger's"} {
		if err := r.put(a, classOf(work.Order{Untrusted: untrusted}), map[string][]byte{"tests/" + key1: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	all := []string{"trusted/tests/" + key1, "untrusted/tests/" + key1, "trusted/tests/" + key2, "trusted/builds/" + key1}
	want := map[string]string{"trusted/tests/" + key1: "ours", "untrusted/tests/" + key1: "a stranger's"}
	if diff := cmp.Diff(want, asked(t, r, a, all...)); diff != "" {
		t.Errorf("of the app (-want +got):\n%s", diff)
	}
	for name, other := range map[string]*v1alpha1.App{"another app": shop("other", "2"), "an App made anew under that name": shop("shop", "3")} {
		if got := asked(t, r, other, all...); len(got) > 0 {
			t.Errorf("%s has %v", name, got)
		}
	}
}

func TestAPoisonedResultIsFoundAndDropped(t *testing.T) {
	name := "trusted/tests/" + key1
	for what, poison := range map[string]func(t *testing.T, dir string){
		"other content": func(t *testing.T, dir string) { alter(t, dir, name, "passed", "passes") },
		"cut off":       func(t *testing.T, dir string) { alter(t, dir, name, "passed", "pass") },
		"empty":         func(t *testing.T, dir string) { write(t, filepath.Join(dir, name), nil) },
		"of another key": func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, name), read(t, filepath.Join(dir, "trusted/tests", key2)))
		},
		"of a stranger": func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, name), read(t, filepath.Join(dir, "untrusted/tests", key1)))
		},
	} {
		t.Run(what, func(t *testing.T) {
			r, log := newResults(t)
			a := shop("shop", "1")
			for _, class := range []string{"trusted", "untrusted"} {
				entries := map[string][]byte{"tests/" + key1: []byte("it passed"), "tests/" + key2: []byte("it passed")}
				if err := r.put(a, class, entries); err != nil {
					t.Fatal(err)
				}
			}
			poison(t, r.of(a))
			if got := asked(t, r, a, name); len(got) > 0 {
				t.Errorf("it is believed: %v", got)
			}
			if !strings.Contains(log.String(), "corrupt") || !strings.Contains(log.String(), name) {
				t.Errorf("the log does not tell:\n%s", log)
			}
			if _, err := os.Stat(filepath.Join(r.of(a), name)); err == nil {
				t.Error("it is still there")
			}
			if got := asked(t, r, a, "trusted/tests/"+key2); len(got) != 1 {
				t.Errorf("the others have suffered: %v", got)
			}
		})
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, file string, b []byte) {
	t.Helper()
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func alter(t *testing.T, dir, name, from, to string) {
	t.Helper()
	file := filepath.Join(dir, name)
	write(t, file, bytes.Replace(read(t, file), []byte(from), []byte(to), 1))
}

func TestResultsAreKeptWithinLimits(t *testing.T) {
	r, _ := newResults(t)
	a := shop("shop", "1")
	for _, bad := range []string{"tests/../../x", "tests/short", "/" + key1, "tests/" + key1 + "/x", "Tests/" + key1} {
		if err := r.put(a, "trusted", map[string][]byte{bad: []byte("x")}); err == nil {
			t.Errorf("%q is kept", bad)
		}
	}
	if err := r.put(a, "trusted", map[string][]byte{"tests/" + key1: make([]byte, maxResult+1)}); err == nil {
		t.Error("one that is too large is kept")
	}
	if err := r.put(a, "trusted", map[string][]byte{"tests/" + key1: []byte("old")}); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	r.now = func() time.Time { return now.Add(maxResultAge + time.Minute) }
	if got := asked(t, r, a, "trusted/tests/"+key1); len(got) > 0 {
		t.Errorf("what is too old is believed: %v", got)
	}
}

func TestTheOldestResultsMakeRoom(t *testing.T) {
	at := func(i int) time.Time { return time.Unix(int64(i), 0) }
	all := []kept{{"c", 30, at(3)}, {"a", 30, at(1)}, {"d", 30, at(4)}, {"b", 30, at(2)}}
	names := func(of []kept) (out []string) {
		for _, k := range of {
			out = append(out, k.file)
		}
		return out
	}
	for _, c := range []struct {
		room int64
		want []string
	}{
		{120, nil}, {119, []string{"a"}}, {100, []string{"a", "b"}}, {10, []string{"a", "b", "c", "d"}},
	} {
		if diff := cmp.Diff(c.want, names(tooMuch(all, 120, c.room))); diff != "" {
			t.Errorf("room for %d (-want +got):\n%s", c.room, diff)
		}
	}
}
