package replay

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestSavesAreTold(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(".gitignore", "*.log\n")
	saves, err := Saves(t.Context(), link, func(path string) bool { return path == filepath.Join(dir, "calls.json") }, slog.New(slog.DiscardHandler), func(err error) { t.Errorf("it has ended: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	next := func(want string) {
		t.Helper()
		select {
		case got := <-saves:
			if got != want {
				t.Errorf("told is %q, want %q", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s is not told", want)
		}
	}
	// It is not known when it has begun to look.
	ready := false
	for i := 0; !ready; i++ {
		write("main.go", string(rune('a'+i%26))+time.Now().String())
		select {
		case <-saves:
			ready = true
		case <-time.After(50 * time.Millisecond):
		}
	}
	write("main.go", "one")
	next("main.go")
	write("main.go", "one")  // the same
	write("app.log", "talk") // ignored
	write("calls.json", "1") // ours
	write("other.go", "two")
	next("other.go")
}
