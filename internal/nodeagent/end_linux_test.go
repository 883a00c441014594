package nodeagent

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/agent/node"
)

const podUID = "2d3f9c1e-0f5a-4f3e-9d3e-5b1c2d3e4f5a"

// ends has a process run in a container of the pod, as a directory like /proc tells, until the
// function that it returns is called.
func ends(t *testing.T, proc, container, command string) (end func()) {
	t.Helper()
	c := exec.Command("cat")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(proc, fmt.Sprint(c.Process.Pid))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"stat":    fmt.Sprintf("%d (cat) S 1%s 70 0 0\n", c.Process.Pid, strings.Repeat(" 0", 17)),
		"cgroup":  "0::/kubepods/burstable/pod" + podUID + "/" + container + "\n",
		"cmdline": command + "\x00",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	over := false
	end = func() {
		if over {
			return
		}
		over = true
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		_ = in.Close()
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(end)
	return end
}

// The containers of an evicted pod end as those do that are about to be started again; the process
// that holds its namespaces tells the two apart.
func TestAVigil(t *testing.T) {
	proc := t.TempDir()
	id := func(c string) string { return strings.Repeat(c, 64) }
	endPause, endOne, endTwo := ends(t, proc, id("a"), "/pause"), ends(t, proc, id("b"), "/cart"), ends(t, proc, id("c"), "/sidecar")
	found, err := node.Proc(proc).Pod(t.Context(), podUID)
	if err != nil || found.Sandbox == nil || len(found.Containers) != 2 {
		t.Fatalf("found %+v, %v", found, err)
	}
	p := &post{log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	told := make(chan bool, 1)
	containers, sandbox, left := p.await(t.Context(), nil, found.Containers...), p.await(t.Context(), func() { told <- true }, *found.Sandbox), p.await(t.Context(), nil, *found.Sandbox)
	open := func(what string, v *vigil) {
		t.Helper()
		select {
		case <-v.ended():
			t.Errorf("%s: it is over", what)
		default:
		}
	}
	closed := func(what string, v *vigil) {
		t.Helper()
		select {
		case <-v.ended():
		case <-time.After(time.Minute):
			t.Fatalf("%s: it is not over", what)
		}
	}
	endOne()
	open("one of two containers has ended", containers)
	endTwo()
	closed("both have", containers)
	open("the sandbox runs", sandbox)
	left.leave() // which waits
	endPause()
	closed("the sandbox has ended", sandbox)
	if len(told) != 1 {
		t.Error("nobody was told at once")
	}
	open("nobody waits any more", left)
	containers.leave()
	sandbox.leave()

	var none *vigil
	none.leave()
	if none.ended() != nil {
		t.Error("nobody waits for nothing")
	}
}
