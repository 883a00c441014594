package atomicfile

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a", "b", "file")
	for _, text := range []string{"one", "another"} {
		if err := Write(name, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); string(got) != text || err != nil {
			t.Errorf("it has %q, %v", got, err)
		}
	}
	if !Unfinished(filepath.Join(dir, "a", "b", unfinished+"7"), name) || Unfinished(name, name) || Unfinished(filepath.Join(dir, unfinished+"7"), name) {
		t.Error("what is being written is not known")
	}
	// Where it can't be written, what was there stays, and nothing else is left.
	if err := os.Mkdir(filepath.Join(dir, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "full", "kept"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(dir, "full"), []byte("x")); err == nil {
		t.Error("a directory was written over")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("left are %v, %v", left, err)
	}
}

func TestReady(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-2 * abandoned)
	for _, name := range []string{unfinished + "old", unfinished + "new", "other"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if name != unfinished+"new" {
			if err := os.Chtimes(filepath.Join(dir, name), old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range []string{"file", "below/file"} {
		if err := Ready(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	var left []string
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		left = append(left, e.Name())
	}
	if want := []string{unfinished + "new", "below", "other"}; !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q", left, want)
	}
	for _, name := range []string{"below", "other/file"} { // a directory, and what can't be one
		if err := Ready(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s can be written", name)
		}
	}
}
