package pause

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

func TestProgramIsAnExecutableOfItsArchitecture(t *testing.T) {
	for arch, want := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		file := write(t, arch)
		f, err := elf.Open(file)
		if err != nil {
			t.Fatalf("%s: %v", arch, err)
		}
		if f.Machine != want || f.Type != elf.ET_EXEC {
			t.Errorf("%s: got machine %v, type %v", arch, f.Machine, f.Type)
		}
		f.Close()
	}
}

func TestProgramSleepsUntilItIsKilled(t *testing.T) {
	cmd := exec.Command(write(t, runtime.GOARCH))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitUntilChildrenAreIgnored(t, cmd.Process.Pid)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() || status.Signal() != syscall.SIGTERM {
		t.Fatalf("got %v, want an end by SIGTERM", err)
	}
}

func TestImageHasTheProgram(t *testing.T) {
	image, err := Image(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	files := tar.NewReader(mutate.Extract(image))
	header, err := files.Next()
	if err != nil {
		t.Fatal(err)
	}
	want, err := Program(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(files)
	if err != nil {
		t.Fatal(err)
	}
	if header.Name != "pause" || header.Mode != 0o755 || !bytes.Equal(got, want) {
		t.Errorf("the image has %s, mode %o, %d bytes; want the program of %d bytes", header.Name, header.Mode, len(got), len(want))
	}
}

func TestUnknownArchitectureIsRefused(t *testing.T) {
	if _, err := Image("vax"); err == nil {
		t.Fatal("no error")
	}
}

// waitUntilChildrenAreIgnored waits for SIGCHLD (17) to be in the mask of
// ignored signals, which is what makes the kernel reap orphans.
func waitUntilChildrenAreIgnored(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if hex, ok := strings.CutPrefix(line, "SigIgn:"); ok {
				mask, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
				if err == nil && mask&(1<<16) != 0 {
					return
				}
			}
		}
		runtime.Gosched()
	}
	t.Fatal("SIGCHLD is not ignored")
}

func write(t *testing.T, arch string) string {
	t.Helper()
	program, err := Program(arch)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pause")
	if err := os.WriteFile(file, program, 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}
