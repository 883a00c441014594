package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/kube"
)

// healthy is a machine without a cluster where everything else is well.
func healthy(t *testing.T) *Doctor {
	agent := filepath.Join(t.TempDir(), "bight-agent")
	if err := os.WriteFile(agent, []byte("agent"), 0o755); err != nil {
		t.Fatal(err)
	}
	return &Doctor{
		Dir: t.TempDir(), App: &app.App{Name: "shop"}, CacheDir: filepath.Join(t.TempDir(), "cache"), Agent: agent,
		ClusterErr: &kube.ConfigError{Text: "no cluster is configured", None: true},
		Find:       func(program string) string { return "/usr/bin/" + program },
	}
}

func find(t *testing.T, checks []Check, name string) Check {
	t.Helper()
	for _, c := range checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("there is no check %q", name)
	return Check{}
}

func TestChecksComeInOrderAndLeaveNothingBehind(t *testing.T) {
	d := healthy(t)
	checks := d.Run(t.Context())
	var names []string
	for _, c := range checks {
		names = append(names, c.Name)
		if c.Detail == "" {
			t.Errorf("check %s says nothing", c.Name)
		}
		if c.Status == Fail {
			t.Errorf("check %s fails: %s", c.Name, c.Detail)
		}
	}
	want := []string{"source", "go", "git", "agent", "cache", "watches", "cluster", "rights", "registry", "embedded cluster"}
	if d := cmp.Diff(want, names); d != "" {
		t.Errorf("checks (-want +got):\n%s", d)
	}
	left, err := os.ReadDir(d.CacheDir)
	if err != nil || len(left) > 0 {
		t.Errorf("the cache directory has %v, %v", left, err)
	}
}

func TestWhatIsWrongIsNamedWithWhatToDo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		spoil func(*Doctor)
		check string
		want  Check // Detail and Next are parts
	}{
		{"no source", func(d *Doctor) { d.App, d.AppErr = nil, errors.New("no source tree\nmore") }, "source",
			Check{Status: Warn, Detail: "no source tree", Next: "bight plan"}},
		{"open questions", func(d *Doctor) { d.App.Questions = []app.Question{{}} }, "source",
			Check{Status: Fail, Detail: "1 open questions", Next: "bight.yaml"}},
		{"no agent", func(d *Doctor) { d.AgentErr = errors.New("not installed") }, "agent",
			Check{Status: Fail, Detail: "not installed", Next: "install"}},
		{"a cache that cannot be made", func(d *Doctor) { d.CacheDir = filepath.Join(file, "cache") }, "cache",
			Check{Status: Fail, Detail: "cannot be written", Next: "XDG_CACHE_HOME"}},
		{"no cluster", func(*Doctor) {}, "cluster",
			Check{Status: Warn, Detail: "names none", Next: "bight cluster start"}},
		{"a refused context", func(d *Doctor) { d.ClusterErr = &kube.GuardError{Context: "prod", Why: "looks like production"} }, "cluster",
			Check{Status: Fail, Detail: "looks like production", Next: "--context"}},
		{"a registry that is down", func(d *Doctor) { d.Registry = "127.0.0.1:1" }, "registry",
			Check{Status: Fail, Detail: "127.0.0.1:1: ", Next: "nothing answers there"}},
		{"a registry that is none", func(d *Doctor) { d.Registry = "UPPER CASE" }, "registry",
			Check{Status: Fail, Detail: "UPPER CASE"}},
		{"no embedded cluster", func(d *Doctor) { d.KubeErr = errors.New("bight-kube is not installed") }, "embedded cluster",
			Check{Status: Warn, Detail: "bight-kube is not installed", Next: "no other cluster"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := healthy(t)
			test.spoil(d)
			got := find(t, d.Run(t.Context()), test.check)
			if got.Status != test.want.Status || !strings.Contains(got.Detail, test.want.Detail) || !strings.Contains(got.Next, test.want.Next) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestMissingProgramsAreNamedTogether(t *testing.T) {
	if runtime.GOOS != "linux" {
		return // there is no embedded cluster to need them
	}
	d := healthy(t)
	d.Find = func(program string) string {
		if program == "runc" || program == "bridge" || program == "loopback" {
			return ""
		}
		return "/usr/bin/" + program
	}
	got := d.embedded(t.Context())
	if os.Geteuid() != 0 {
		if !strings.Contains(got.Detail, "root") {
			t.Errorf("got %+v, want a word about root", got)
		}
		return
	}
	want := Check{Name: "embedded cluster", Status: Warn, Detail: "this machine lacks runc, bridge, loopback",
		Next: "apt-get install runc containernetworking-plugins; or use another cluster (--context)"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestAToolchainThatIsTooOldIsFoundInTheSource(t *testing.T) {
	d := healthy(t)
	d.App.Services = []*app.Service{{Name: "x", Build: app.Build{Kind: app.BuildGo}}}
	t.Setenv("GOTOOLCHAIN", "local")
	if err := os.WriteFile(filepath.Join(d.Dir, "go.mod"), []byte("module example.com/x\n\ngo 1.999\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	got := find(t, d.Run(t.Context()), "go")
	if got.Status != Fail || !strings.Contains(got.Detail, "go >= 1.999") || !strings.Contains(got.Next, "GOTOOLCHAIN") {
		t.Errorf("got %+v, want a failure about go 1.999", got)
	}
}
