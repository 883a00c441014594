//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// objects reads one JSON object per line.
func jsonLines(t *testing.T, text string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(text) {
		var o map[string]any
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		all = append(all, o)
	}
	return all
}

func TestCLIKeepsDataAndProgressApart(t *testing.T) {
	l := goApp(t)
	out, errs, code := l.bight("up", "--once", "-n", l.namespace, "-o", "json")
	if code != 0 {
		t.Fatalf("exit code %d\n%s", code, errs)
	}
	if out != "" {
		t.Errorf("bight up --once has no data, but writes %s", out)
	}
	events := jsonLines(t, errs)
	for _, kind := range []string{"app", "plan", "build", "push", "deploy", "ready"} {
		if !slices.ContainsFunc(events, func(e map[string]any) bool { return e["type"] == kind }) {
			t.Errorf("no event %q in\n%s", kind, errs)
		}
	}

	out, errs, code = l.bight("build", "-o", "json", "-n", l.namespace)
	var images []struct{ Service, Image, Tree string }
	if err := json.Unmarshal([]byte(out), &images); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v in %s%s", code, err, out, errs)
	}
	if len(images) != 1 || images[0].Service != "hello" || !strings.Contains(images[0].Image, "@sha256:") {
		t.Errorf("bight build prints %s", out)
	}

	l.eventually("logs", func() error {
		out, errs, code := l.bight("logs", "hello", "-o", "json", "-n", l.namespace)
		if code != 0 || errs != "" {
			return fmt.Errorf("exit code %d, %s", code, errs)
		}
		if !slices.ContainsFunc(jsonLines(t, out), func(o map[string]any) bool {
			return o["type"] == "log" && o["service"] == "hello" && o["text"] == "starting with first"
		}) {
			return fmt.Errorf("it prints %s", out)
		}
		return nil
	})

	s := l.status()
	if s.App != "hello" || len(s.Services) != 1 || !s.Services[0].InSync || s.Services[0].Image == "" {
		t.Errorf("bight status prints %+v", s)
	}

	if _, errs, code = l.bight("down", "-o", "json", "-n", l.namespace); code != 0 {
		t.Errorf("bight down: exit code %d, %s", code, errs)
	}
	jsonLines(t, errs)
}

func TestStatusSaysWhatDoesNotRun(t *testing.T) {
	l := newLab(t, map[string]string{"go.mod": goMod, "main.go": server("first"), "site/index.html": "<h1>a site</h1>\n"})
	out, _, code := l.bight("status", "-n", l.namespace)
	if code != 1 || strings.Count(out, "it is not deployed; bight up deploys it") != 2 {
		t.Errorf("not deployed: exit code %d\n%s", code, out)
	}
	l.once()
	out, errs, code := l.bight("status", "-n", l.namespace)
	if code != 0 || errs != "" || strings.Count(out, "no session: bight up") != 2 {
		t.Errorf("without a session: exit code %d\n%s%s", code, out, errs)
	}
	l.write("main.go", strings.Replace(server("second"), `fmt.Println("starting with"`, `panic("no luck today"); fmt.Println("starting with"`, 1))
	out, _, code = l.bight("status", "-n", l.namespace)
	if code != 0 || !strings.Contains(out, "has other files than the local source") {
		t.Errorf("not in sync: exit code %d\n%s", code, out)
	}
	if _, errs, code := l.bight("up", "--once", "-n", l.namespace); code != 1 {
		t.Fatalf("bight up --once: exit code %d\n%s", code, errs)
	}
	out, errs, code = l.bight("status", "-n", l.namespace)
	if code != 1 || !strings.Contains(out, "ends at once with exit code 2: panic: no luck today") ||
		!strings.Contains(errs, "the last that its process wrote") || strings.Count(errs, "panic: no luck today") != 1 {
		t.Errorf("a crash loop: exit code %d\n%s%s", code, out, errs)
	}
	for _, s := range l.status().Services {
		if want := s.Name == "site"; s.Running != want || (len(s.Output) > 0) == want {
			t.Errorf("%+v", s)
		}
	}
}

func TestCLISaysWhatIsNotThere(t *testing.T) {
	l := goApp(t)
	l.once()
	tests := []struct {
		args []string
		code int
		want string
	}{
		{[]string{"logs", "nosuch"}, 4, `no service is named "nosuch": there is hello in the source `},
		{[]string{"build", "nosuch"}, 4, `no service is named "nosuch": there is hello`},
		{[]string{"plan", "nosuch"}, 4, `there is no directory `},
		{[]string{"status", "--context", "nosuch"}, 2, `context "nosuch" (--context) does not exist; there are: `},
	}
	for _, test := range tests {
		args := test.args
		if test.args[0] != "plan" {
			args = append(args, "-n", l.namespace)
		}
		out, errs, code := l.bight(args...)
		if code != test.code || !strings.Contains(errs, test.want) || out != "" {
			t.Errorf("bight %s: exit code %d, want %d and %q:\n%s%s", strings.Join(args, " "), code, test.code, test.want, out, errs)
		}
	}
}

func TestCLIInterrupted(t *testing.T) {
	l := newLab(t, map[string]string{"go.mod": goMod,
		"main.go": strings.Replace(server("first"), `fmt.Println("starting with", "first")`, `<-make(chan int, len(os.Args)); _ = http.Serve`, 1)})
	l.write("idle.go", "package main\n\nimport \"time\"\n\nfunc init() { go func() { time.Sleep(time.Hour) }() }\n")
	s := l.launch("--once")
	l.eventually("it waits for the service", func() error {
		if len(s.eventsOf("deploy")) < 2 {
			return fmt.Errorf("it says %s", s.output)
		}
		return nil
	})
	if code := s.signal(syscall.SIGINT); code != 130 {
		t.Errorf("exit code %d, want 130:\n%s", code, s.output)
	}
	if !strings.HasSuffix(s.output.String(), "interrupted\n") {
		t.Errorf("it does not say so:\n%s", s.output)
	}
}

func TestCLIDoctor(t *testing.T) {
	type report struct {
		Checks []struct{ Name, Status, Detail, Next string }
	}
	ask := func(l *lab, args ...string) (report, int) {
		t.Helper()
		out, errs, code := l.bight(append([]string{"doctor", "-o", "json", "-n", l.namespace}, args...)...)
		var r report
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("%v in %s%s", err, out, errs)
		}
		return r, code
	}
	l := goApp(t)
	healthy, code := ask(l)
	if code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	for _, c := range healthy.Checks {
		if c.Status != "ok" && c.Name != "cache" { // it may be small
			t.Errorf("%s: %s, %s", c.Name, c.Status, c.Detail)
		}
	}
	if objects := l.objects(); objects != nil {
		t.Errorf("it made %v", objects)
	}

	sick, code := ask(l, "--kubeconfig", as(t, "nobody"), "--registry", "127.0.0.1:1")
	if code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	for _, c := range sick.Checks {
		failed := c.Name == "rights" || c.Name == "registry"
		if (c.Status == "fail") != failed || failed && c.Next == "" {
			t.Errorf("%+v", c)
		}
	}
	out, _, _ := l.bight("doctor", "-n", l.namespace)
	if !strings.Contains(out, "✓ ok") || strings.Contains(out, "\x1b") {
		t.Errorf("for people it prints\n%s", out)
	}
}

func TestCLICompletesNamespaces(t *testing.T) {
	l := goApp(t)
	out, _, code := l.bight("__complete", "up", "-n", "")
	if code != 0 || !slices.Contains(strings.Split(out, "\n"), "kube-system") {
		t.Errorf("exit code %d, %s", code, out)
	}
}

func TestCLIIsAPluginOfKubectl(t *testing.T) {
	l := goApp(t)
	plugin := filepath.Join(t.TempDir(), "kubectl-bight")
	if err := os.Symlink(filepath.Join(binaries, "bight"), plugin); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(plugin, "up", "--once", "-n", l.namespace)
	cmd.Dir = l.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("kubectl bight up: %v\n%s", err, out)
	}
	out, err := exec.Command(plugin, "--help").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "kubectl bight [command]") {
		t.Errorf("kubectl bight --help: %v\n%s", err, out)
	}
}
