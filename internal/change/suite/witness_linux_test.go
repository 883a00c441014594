package suite

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// starting is an app whose tests start a program that reads data/a.
func starting(body string) map[string]string {
	return map[string]string{
		"go.mod":         "module shop\n\ngo 1.26\n",
		"README.md":      "Shop\n",
		"data/a":         "1",
		"data/b":         "2",
		"all/all.go":     "package all\n",
		"all/more_go.md": "No source.\n",
		"all/all_test.go": "package all\n\nimport (\n\t\"os\"\n\t\"os/exec\"\n\t\"testing\"\n)\n\nfunc TestAll(t *testing.T) {\n" +
			"\tif out, err := exec.Command(\"cat\", \"../data/a\").Output(); err != nil || len(out) != 1 {\n\t\tt.Fatal(err)\n\t}\n\t_ = os.Getpid()\n" + body + "}\n",
	}
}

func TestWhatTestsHaveNotReadMayChange(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(t *testing.T, root string)
		known  bool
	}{
		"a file that nobody read": {func(t *testing.T, root string) {
			write(t, root, map[string]string{"README.md": "New\n", "data/b": "3"})
		}, true},
		"one beside the tests":           {func(t *testing.T, root string) { write(t, root, map[string]string{"all/more_go.md": "New\n"}) }, true},
		"a file that their program read": {func(t *testing.T, root string) { write(t, root, map[string]string{"data/a": "3"}) }, false},
		"a source": {func(t *testing.T, root string) {
			write(t, root, map[string]string{"all/all.go": "package all\n\nvar X = 1\n"})
		}, false},
		"a file that was not there":    {func(t *testing.T, root string) { write(t, root, map[string]string{"data/c": "3"}) }, false},
		"a file that is there no more": {func(t *testing.T, root string) { remove(t, filepath.Join(root, "data/b")) }, false},
		"a file that is a program now": {func(t *testing.T, root string) { chmod(t, filepath.Join(root, "data/b"), 0o755) }, false},
		"a file that leads elsewhere now": {func(t *testing.T, root string) {
			remove(t, filepath.Join(root, "data/b"))
			link(t, "a", filepath.Join(root, "data/b"))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			root := app(t, starting(""))
			r := &Runner{Source: Source{Root: root}, Cache: &Cache{Store: Dir(t.TempDir())}, Trust: Trusted, From: "change 1"}
			if res := run1(t, r); res.Status != Passed || res.Counts.Cached != 0 {
				t.Fatalf("got %s %+v", res.Status, res.Counts)
			}
			tt.change(t, root)
			r.From = "change 2"
			res := run1(t, r)
			if got := res.Known(); res.Status != Passed || got != map[bool]string{true: "same inputs as change 1"}[tt.known] {
				t.Errorf("got %s, known: %q", res.Status, got)
			}
			if known, rest := r.Known(t.Context(), discover(t, r.Source)); len(known.Units) != 1 || len(rest) != 0 {
				t.Errorf("after that %d units are known, %d are not", len(known.Units), len(rest))
			}
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}

// Nobody knows what comes out of a pipe.
func TestTestsThatReadAPipeHaveReadEverything(t *testing.T) {
	root := app(t, starting("\tf, err := os.OpenFile(\"../data/pipe\", os.O_RDWR, 0)\n\tif err != nil {\n\t\tt.Fatal(err)\n\t}\n\tf.Close()\n"))
	if err := unix.Mkfifo(filepath.Join(root, "data/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &Runner{Source: Source{Root: root}, Cache: &Cache{Store: Dir(t.TempDir())}, Trust: Trusted}
	if res := run1(t, r); res.Status != Passed {
		t.Fatalf("%+v", res)
	}
	write(t, root, map[string]string{"README.md": "New\n"})
	if res := run1(t, r); res.Known() != "" {
		t.Errorf("they don't run again: %s", res.Known())
	}
}

// Of tests that write into the tree, nobody knows which of it they have read first.
func TestTestsThatWriteHaveReadEverything(t *testing.T) {
	root := app(t, starting("\tif err := os.WriteFile(\"../data/b\", []byte(\"2\"), 0o644); err != nil {\n\t\tt.Fatal(err)\n\t}\n"))
	r := &Runner{Source: Source{Root: root}, Cache: &Cache{Store: Dir(t.TempDir())}, Trust: Trusted}
	run1(t, r)
	if res := run1(t, r); res.Known() == "" {
		t.Error("with the same files they run again")
	}
	write(t, root, map[string]string{"README.md": "New\n"})
	if res := run1(t, r); res.Known() != "" {
		t.Errorf("they don't run again: %s", res.Known())
	}
}

func TestWhatStrangersHaveReadCountsForStrangers(t *testing.T) {
	root := app(t, starting(""))
	r := &Runner{Source: Source{Root: root}, Cache: &Cache{Store: Dir(t.TempDir())}, Trust: Untrusted}
	run1(t, r)
	write(t, root, map[string]string{"README.md": "New\n"})
	r.Trust = Trusted
	if res := run1(t, r); res.Known() != "" {
		t.Errorf("trusted: %s", res.Known())
	}
	write(t, root, map[string]string{"README.md": "Newer\n"})
	r.Trust = Untrusted
	if res := run1(t, r); res.Known() == "" {
		t.Error("untrusted: not known")
	}
}

func TestAnEntryThatNamesFilesElsewhereIsNotBelieved(t *testing.T) {
	root := app(t, map[string]string{"a": "1"})
	beside := filepath.Join(filepath.Dir(root), "beside")
	write(t, filepath.Dir(root), map[string]string{"beside": "1"})
	sum, err := newHashes(root).file(beside)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"a": true, "../beside": false, beside: false, "b": false} {
		if got := (&run{root: root}).same(map[string]string{path: sum}); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}

func TestWitness(t *testing.T) {
	files := map[string]string{"a": "1", "d/b": "2", "d/e/c": "3", "d/e/f": "4", ".git/x": "5", "web/node_modules/y": "6"}
	cat := func(t *testing.T, root string, names ...string) {
		t.Helper()
		cmd := exec.Command("cat", names...)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for name, tt := range map[string]struct {
		do   func(t *testing.T, root string, w *witness)
		want []string
		ok   bool
	}{
		"nothing":              {func(*testing.T, string, *witness) {}, nil, true},
		"files of a program":   {func(t *testing.T, root string, _ *witness) { cat(t, root, "d/e/c", "a", "a") }, []string{"a", "d/e/c"}, true},
		"what no key covers":   {func(t *testing.T, root string, _ *witness) { cat(t, root, ".git/x", "web/node_modules/y") }, nil, true},
		"a directory's names":  {func(t *testing.T, root string, _ *witness) { _, _ = os.ReadDir(filepath.Join(root, "d")) }, nil, true},
		"a file is written":    {func(t *testing.T, root string, _ *witness) { write(t, root, map[string]string{"d/b": "2"}) }, []string{"d/b"}, false},
		"one is made":          {func(t *testing.T, root string, _ *witness) { mkdir(t, filepath.Join(root, "d/e/new")) }, nil, false},
		"one is removed":       {func(t *testing.T, root string, _ *witness) { remove(t, filepath.Join(root, "d/e/f")) }, nil, false},
		"events are lost":      {func(_ *testing.T, _ string, w *witness) { w.take(kernelEvent(-1, unix.IN_Q_OVERFLOW, "")) }, nil, false},
		"an unknown directory": {func(_ *testing.T, _ string, w *witness) { w.take(kernelEvent(1000, unix.IN_OPEN, "x")) }, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			root := app(t, files)
			w := watchReads(root)
			if w == nil {
				t.Fatal("nothing is watched")
			}
			defer w.close()
			tt.do(t, root, w)
			names, ok := w.end()
			if diff := cmp.Diff(tt.want, names); diff != "" || ok != tt.ok {
				t.Errorf("complete: %v, want %v; (-want +got):\n%s", ok, tt.ok, diff)
			}
		})
	}
}

// kernelEvent is as the kernel writes it.
func kernelEvent(wd int32, mask uint32, name string) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(wd))
	b = binary.NativeEndian.AppendUint32(b, mask)
	b = binary.NativeEndian.AppendUint32(b, 0)
	padded := name + strings.Repeat("\x00", 16-len(name)%16)
	return append(binary.NativeEndian.AppendUint32(b, uint32(len(padded))), padded...)
}
