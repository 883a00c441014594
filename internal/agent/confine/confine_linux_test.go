package confine

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestMain makes this program the first process of a container where a test wants it
// to be.
func TestMain(m *testing.M) {
	if os.Getenv("CONFINE_REPORT") == "" {
		os.Exit(m.Run())
	}
	r := &Run{
		Limits:  Limits{Processes: 40, Disk: 4 << 20, Time: 5 * time.Second, Temp: os.Getenv("CONFINE_TEMP")},
		Command: os.Args[1:], Report: os.Getenv("CONFINE_REPORT"),
	}
	code, err := r.Do(context.Background())
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(99)
	}
	os.Exit(code)
}

func TestAProgramIsEndedWhenItTakesMoreThanItMay(t *testing.T) {
	for _, c := range []struct {
		name, script string
		code         int
		want         Stopped
	}{
		{"ends by itself", `echo said; exit 3`, 3, Stopped{}},
		{"leaves something behind", `sleep 60 & setsid sleep 60 & exit 0`, 0, Stopped{}},
		{"never ends", `sleep 60`, 137, Stopped{"time", "it took longer than 5s"}},
		// Not without end: the kernel's limit, which stops that, does not hold for root.
		{"has many processes", `i=0; while [ $i -lt 60 ]; do i=$((i+1)); sleep 60 & done; wait`, 137, Stopped{"processes", "it had more than 40 processes and threads at once"}},
		{"fills the disk", `i=0; while :; do i=$((i+1)); head -c 1000000 /dev/zero >$TMPDIR/$i; done`, 137, Stopped{"disk", "it wrote more than 4 MiB of temporary files"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			temp := filepath.Join(dir, "tmp")
			if err := os.Mkdir(temp, 0o700); err != nil {
				t.Fatal(err)
			}
			report := filepath.Join(dir, "report")
			cmd := exec.Command(os.Args[0], "/bin/sh", "-c", c.script)
			cmd.Env = append(os.Environ(), "CONFINE_REPORT="+report, "CONFINE_TEMP="+temp, "TMPDIR="+temp)
			// Its own process ids, and a /proc that shows them.
			cmd.Args = append([]string{"unshare", "--user", "--map-root-user", "--pid", "--mount-proc", "--fork", "--kill-child"}, cmd.Args...)
			var err error
			if cmd.Path, err = exec.LookPath("unshare"); err != nil {
				t.Fatal(err)
			}
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
				t.Fatal(err)
			}
			if got := cmd.ProcessState.ExitCode(); got != c.code {
				t.Errorf("exit code %d, want %d\n%s", got, c.code, out.String())
			}
			var got Stopped
			if b, err := os.ReadFile(report); err == nil {
				if err := json.Unmarshal(b, &got); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("report (-want +got):\n%s", d)
			}
		})
	}
}

func TestItRunsNowhereButInAContainer(t *testing.T) {
	_, err := (&Run{Command: []string{"/bin/true"}}).Do(t.Context())
	if err == nil || !strings.Contains(err.Error(), "first process of a container") {
		t.Errorf("got %v", err)
	}
}

func TestThreadsAreReadBehindAnyName(t *testing.T) {
	tail := " S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 7 0 123"
	for _, c := range []struct {
		stat string
		want int
	}{
		{"12 (test)" + tail, 7},
		{"12 (a) b (c) 9)" + tail, 7},
		{"12 (short) S 1", 1},
		{"", 1},
	} {
		if got := threads(c.stat); got != c.want {
			t.Errorf("%q: %d, want %d", c.stat, got, c.want)
		}
	}
}
