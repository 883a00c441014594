package suite

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// hostile runs one test with the given body and imports.
func hostile(t *testing.T, limits Limits, imports, body string) UnitResult {
	t.Helper()
	root := app(t, map[string]string{
		"go.mod":    "module m\n\ngo 1.26\n",
		"a_test.go": "package a\n\nimport (\n\t\"testing\"\n" + imports + ")\n\nfunc TestIt(t *testing.T) {\n" + body + "\n}\n",
	})
	began := time.Now()
	res := run1(t, &Runner{Source: Source{Root: root}, Limits: limits})
	t.Logf("%s by %s after %.1f s: %s", res.Status, res.Isolation, time.Since(began).Seconds(), res.Units[0].Reason)
	return res.Units[0]
}

func TestATestThatNeverEnds(t *testing.T) {
	u := hostile(t, Limits{Test: 500 * time.Millisecond}, "", "\tselect {}")
	if u.Status != Stopped || u.Stop != StopTime || !strings.Contains(fmt.Sprint(u), "goroutine ") {
		t.Errorf("got %+v", u)
	}
}

// A process that ignores go test's own timeout is ended by ours.
func TestACommandThatNeverEndsPrintsItsGoroutines(t *testing.T) {
	prog := app(t, map[string]string{
		"go.mod":  "module m\n\ngo 1.26\n",
		"main.go": "package main\n\nimport \"time\"\n\nfunc main() { time.Sleep(time.Hour) }\n",
	})
	root := app(t, map[string]string{"x/a": ""})
	bin := filepath.Join(t.TempDir(), "hang6790")
	build := run1(t, &Runner{Source: Source{Root: prog, Commands: []Command{{Service: "b", Dir: ".", Run: "GOFLAGS= go build -o " + bin + " ."}}, Modules: []string{}}})
	if build.Status != Passed {
		t.Fatalf("%+v", build)
	}
	r := &Runner{Source: Source{Root: root, Commands: []Command{{Service: "x", Dir: "x", Run: "setsid " + bin + " & wait"}}}, Limits: Limits{Test: time.Second}}
	u := run1(t, r).Units[0]
	if u.Stop != StopTime || !strings.Contains(strings.Join(u.Output, "\n"), "SIGQUIT") {
		t.Errorf("got %+v", u)
	}
	noneLeft(t, "hang6790")
}

func TestATestThatForksWithoutEnd(t *testing.T) {
	body := "\tfor {\n\t\tc := exec.Command(\"sleep\", \"6791\")\n\t\tc.SysProcAttr = &syscall.SysProcAttr{Setsid: true}\n\t\tc.Start()\n\t}"
	u := hostile(t, Limits{Processes: 400, Test: 20 * time.Second}, "\t\"os/exec\"\n\t\"syscall\"\n", body)
	if u.Stop != StopProcesses || u.Status != Stopped {
		t.Errorf("got %+v", u)
	}
	noneLeft(t, "sleep\x006791")
}

func TestForksAreFoundWithoutACgroup(t *testing.T) {
	l := Limits{Processes: 50}.withDefaults()
	b := &box{mark: "BIGHT_TEST_RUN=" + t.Name(), limits: l}
	j := job{
		dir: t.TempDir(), temp: t.TempDir(), limits: l, time: 20 * time.Second, stdout: &strings.Builder{}, stderr: &strings.Builder{},
		args: []string{"sh", "-c", "while :; do setsid sleep 6792 & done"}, env: []string{"PATH=" + os.Getenv("PATH")},
	}
	if res := j.runIn(t.Context(), b); res.stop != StopProcesses || res.isolation != "watchdog" {
		t.Errorf("got %+v", res)
	}
	noneLeft(t, "sleep\x006792")
}

func TestATestThatFillsTheDisk(t *testing.T) {
	many := "\tb := make([]byte, 1<<20)\n\tfor i := 0; ; i++ {\n\t\tos.WriteFile(filepath.Join(os.TempDir(), fmt.Sprint(i)), b, 0o600)\n\t}"
	u := hostile(t, Limits{Disk: 300 << 20, Test: 20 * time.Second}, "\t\"fmt\"\n\t\"os\"\n\t\"path/filepath\"\n", many)
	if u.Stop != StopDisk || u.Status != Stopped {
		t.Errorf("got %+v", u)
	}
	one := "\tf, err := os.Create(filepath.Join(os.TempDir(), \"x\"))\n\tb := make([]byte, 1<<20)\n\tfor err == nil {\n\t\t_, err = f.Write(b)\n\t}\n\tt.Fatal(err)"
	u = hostile(t, Limits{Disk: 300 << 20, Test: 20 * time.Second}, "\t\"os\"\n\t\"path/filepath\"\n", one)
	if u.Stop != StopDisk || u.Status != Stopped {
		t.Errorf("one file: got %+v", u)
	}
}

// The packages that ran beside one that took too much are not blamed for it.
func TestOnlyTheGreedyPackageIsStopped(t *testing.T) {
	write := "\tb := make([]byte, 1<<20)\n\tfor i := 0; ; i++ {\n\t\tos.WriteFile(filepath.Join(os.TempDir(), fmt.Sprint(i)), b, 0o600)\n\t}"
	files := shop()
	files["greedy/a_test.go"] = "package greedy\n\nimport (\n\t\"fmt\"\n\t\"os\"\n\t\"path/filepath\"\n\t\"testing\"\n)\n\nfunc TestIt(t *testing.T) {\n" + write + "\n}\n"
	res := run1(t, &Runner{Source: Source{Root: app(t, files)}, Limits: Limits{Disk: 300 << 20, Test: 20 * time.Second}})
	for _, u := range res.Units {
		if want := map[bool]Status{true: Stopped, false: Passed}[u.Name == "shop/greedy"]; u.Status != want {
			t.Errorf("%s: %s %s %s", u.Name, u.Status, u.Stop, u.Reason)
		}
	}
	if len(res.Units) != 4 {
		t.Errorf("%d units, want 4", len(res.Units))
	}
}

func TestATestThatTakesAllMemory(t *testing.T) {
	body := "\tvar all [][]byte\n\tfor {\n\t\tb := make([]byte, 1<<20)\n\t\tfor i := range b {\n\t\t\tb[i] = 1\n\t\t}\n\t\tall = append(all, b)\n\t\t_ = all\n\t}"
	u := hostile(t, Limits{Memory: 1 << 30, Test: 30 * time.Second}, "", body)
	if u.Status != Stopped || u.Stop != StopMemory {
		t.Errorf("got %+v", u)
	}
}

func TestATestThatPrintsWithoutEnd(t *testing.T) {
	log := &strings.Builder{}
	root := app(t, map[string]string{
		"go.mod":    "module m\n\ngo 1.26\n",
		"a_test.go": "package a\n\nimport (\n\t\"fmt\"\n\t\"testing\"\n)\n\nfunc TestIt(t *testing.T) {\n\tfor i := range 200_000 {\n\t\tfmt.Println(i, \"{\\\"Action\\\":\\\"pass\\\"}\")\n\t}\n\tfmt.Print(\"no line end \\x00\\xff\")\n}\n",
	})
	res := run1(t, &Runner{Source: Source{Root: root}, Limits: Limits{Output: 1 << 20}, Output: log})
	if res.Status != Passed || log.Len() > 1<<20+200 || !strings.Contains(log.String(), "the log ends here") {
		t.Errorf("%s, %d bytes of log", res.Status, log.Len())
	}
}
