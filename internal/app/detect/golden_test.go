package detect

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write what was got to testdata")

// Each archive is a source tree and, last, the plan that it gives (want.json) or
// the error (want.error).
func TestDetectGivesThePlanOfTheSource(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "shop")
			var kept []txtar.File
			want := ""
			for _, f := range ar.Files {
				if f.Name == "want.json" || f.Name == "want.error" {
					want = f.Name + "\n" + string(f.Data)
					continue
				}
				kept = append(kept, f)
				write(t, filepath.Join(dir, f.Name), f.Data)
			}
			got := plan(t, dir)
			if again := plan(t, dir); again != got {
				t.Errorf("two runs differ:\n%s", cmp.Diff(got, again))
			}
			if *update {
				kind, data, _ := strings.Cut(got, "\n")
				ar.Files = append(kept, txtar.File{Name: kind, Data: []byte(data)})
				if err := os.WriteFile(name, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("plan differs (-want +got):\n%s", diff)
			}
		})
	}
}

func plan(t *testing.T, dir string) string {
	t.Helper()
	a, err := Detect(t.Context(), dir)
	if err != nil {
		return "want.error\n" + strings.ReplaceAll(err.Error(), dir, "DIR") + "\n"
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(a); err != nil {
		t.Fatal(err)
	}
	return "want.json\n" + b.String()
}

func write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}
