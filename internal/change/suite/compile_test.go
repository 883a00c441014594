package suite

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// compiled compiles the tests of a tree and returns where the programs are.
func compiled(t *testing.T, root string) ([]Program, string, error) {
	t.Helper()
	s, err := Guarded(t.Context(), Source{Root: root, Modules: []string{"."}})
	if err != nil {
		t.Fatal(err)
	}
	units, err := s.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	all, err := (&Compiler{Source: s}).Compile(t.Context(), units, dir)
	return all, dir, err
}

func TestCompiledTestsGiveTheResultsOfGoTest(t *testing.T) {
	root := app(t, map[string]string{
		"go.mod":           "module shop\n\ngo 1.26\n",
		"cart/a_test.go":   "package cart\n\nimport \"testing\"\n\nfunc TestGood(t *testing.T) { t.Run(\"sub\", func(t *testing.T) {}) }\n\nfunc TestBad(t *testing.T) {\n\tt.Error(\"no luck\")\n}\n",
		"b/cart/a_test.go": "package cart\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestFile(t *testing.T) {\n\tif _, err := os.Stat(\"a_test.go\"); err != nil {\n\t\tt.Error(err)\n\t}\n}\n",
		"v/v2/a_test.go":   "package v\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestExit(t *testing.T) { os.Exit(0) }\n",
	})
	programs, dir, err := compiled(t, root)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]UnitResult{}
	for _, p := range programs {
		var log bytes.Buffer
		r := NewReading(p.Unit, &log)
		cmd := exec.Command(filepath.Join(dir, Converter), "-t", "-p", p.Name, filepath.Join(dir, p.File), "-test.v=test2json", "-test.paniconexit0")
		cmd.Dir, cmd.Stdout = filepath.Join(root, p.Dir), r
		_ = cmd.Run() // the code says it
		u, err := r.Result("", "", cmd.ProcessState.ExitCode())
		if err != nil {
			t.Fatal(err)
		}
		got[p.Name] = u
	}
	status := map[string]Status{}
	for name, u := range got {
		status[name] = u.Status
	}
	want := map[string]Status{"shop/cart": Failed, "shop/b/cart": Passed, "shop/v/v2": Failed}
	if d := cmp.Diff(want, status); d != "" {
		t.Fatalf("(-want +got):\n%s", d)
	}
	bad := got["shop/cart"]
	if d := cmp.Diff([]string{"shop/cart TestBad"}, []string{bad.Name + " " + bad.Suspects()[0]}); d != "" {
		t.Error(d)
	}
	i := slices.IndexFunc(bad.Tests, func(t Test) bool { return t.Name == "TestBad" })
	if x := bad.Tests[i]; x.File != "cart/a_test.go" || x.Line != 8 {
		t.Errorf("it failed at %s:%d", x.File, x.Line)
	}
}

func TestAReadingTellsWhatStoppedATest(t *testing.T) {
	const begun = `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
`
	const late = begun + `{"Action":"output","Package":"p","Output":"panic: test timed out after 1s\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p","Elapsed":1}
`
	for _, c := range []struct {
		name, events string
		stop         Stop
		reason       string
		code         int
		want         UnitResult
	}{
		{"a limit", begun, StopDisk, "it wrote too much", 137, UnitResult{Status: Stopped, Stop: StopDisk, Reason: "it wrote too much"}},
		{"its own timeout", late, "", "", 2, UnitResult{Status: Stopped, Stop: StopTime, Reason: "it took longer than 1s"}},
		{"its own timeout, and no more", begun + `{"Action":"output","Package":"p","Test":"TestA","Output":"panic: test timed out after 1m0s\n"}`, "", "", 2, UnitResult{Status: Stopped, Stop: StopTime, Reason: "it took longer than 1m0s"}},
		{"nothing that is known", begun, "", "", 9, UnitResult{Status: Failed, Reason: "the tests ended without a result, with exit code 9"}},
		{"a pass that the exit code belies", `{"Action":"pass","Package":"p"}`, "", "", 3, UnitResult{Status: Failed, Reason: "the tests ended with exit code 3"}},
		{"a pass", `{"Action":"pass","Package":"p"}`, "", "", 0, UnitResult{Status: Passed}},
	} {
		r := NewReading(Unit{Name: "p"}, &bytes.Buffer{})
		if _, err := r.Write([]byte(c.events)); err != nil {
			t.Fatal(err)
		}
		u, err := r.Result(c.stop, c.reason, c.code)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.want, UnitResult{Status: u.Status, Stop: u.Stop, Reason: u.Reason}); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}

func TestATestThatPassesTheSecondTimeIsFlaky(t *testing.T) {
	first := UnitResult{Name: "p", Status: Failed, Tests: []Test{{Name: "TestA", Status: Failed, File: "a_test.go", Line: 3}, {Name: "TestB", Status: Failed}}}
	flakes := first.Again(UnitResult{Tests: []Test{{Name: "TestA", Status: Passed}, {Name: "TestB", Status: Failed}}})
	if len(flakes) != 1 || flakes[0].Test != "p TestA" || flakes[0].Quarantined || flakes[0].Line != 3 || !first.Tests[0].Flaky || first.Tests[1].Flaky {
		t.Errorf("flakes %+v of %+v", flakes, first.Tests)
	}
}

func TestCompilingRunsNothingThatTheSourceNames(t *testing.T) {
	left := filepath.Join(t.TempDir(), "left")
	t.Setenv("GOFLAGS", "-toolexec="+os.Args[0]+" -mod=mod")
	root := app(t, map[string]string{
		"go.mod":         "module shop\n\ngo 1.26\n\ntoolchain go1.99.0\n",
		"cart/a.go":      "package cart\n\n//go:generate touch " + left + "\n",
		"cart/c.go":      "package cart\n\n// #cgo CFLAGS: -fplugin=" + left + "\nimport \"C\"\n",
		"cart/a_test.go": "package cart\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc init() { os.WriteFile(`" + left + "`, nil, 0o600) }\n\nfunc TestA(t *testing.T) {}\n",
	})
	if _, _, err := compiled(t, root); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("something of the source was run")
	}
}

func TestWhatIsCompiledLiesInTheRepository(t *testing.T) {
	secret := app(t, map[string]string{"go.mod": "module secret\n\ngo 1.26\n", "s.go": "package secret\n\nconst Key = 1\n"})
	files := map[string]string{
		"go.mod":         "module shop\n\ngo 1.26\n\nrequire secret v0.0.0\n\nreplace secret => " + secret + "\n",
		"cart/a_test.go": "package cart\n\nimport (\n\t\"secret\"\n\t\"testing\"\n)\n\nfunc TestA(t *testing.T) { t.Log(secret.Key) }\n",
	}
	_, _, err := compiled(t, app(t, files))
	var compile *CompileError
	if !errors.As(err, &compile) || !strings.Contains(err.Error(), "leads package secret to a directory that is not in the repository") || strings.Contains(err.Error(), secret) {
		t.Errorf("got %v", err)
	}
	files["go.mod"] = "module shop\n\ngo 1.26\n"
	files["cart/a_test.go"] = "package cart\n\nfunc x() { return 1 }\n"
	if _, _, err = compiled(t, app(t, files)); !errors.As(err, &compile) || !strings.Contains(err.Error(), "cart/a_test.go:3") {
		t.Errorf("got %v", err)
	}
}

func TestOnlyProxiesOfTheWorkersAreAsked(t *testing.T) {
	for in, want := range map[string]string{
		"": "off", "direct": "off", "off": "off",
		"https://proxy.golang.org,direct":        "https://proxy.golang.org",
		"https://u:p@a.example|https://b,direct": "https://a.example,https://b",
	} {
		if got := withoutDirect(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
