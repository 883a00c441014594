package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

func TestTheOwnNamespace(t *testing.T) {
	own, err := OwnNetns()
	must(t, err)
	defer own.Close()
	other := newNetwork(t)
	if own.Same(other.pod) {
		t.Fatal("the own namespace is that of a pod")
	}
	var in namespace
	must(t, own.In(t.Context(), func() (err error) {
		in, err = identify("/proc/thread-self/ns/net")
		return err
	}))
	if in != own.id {
		t.Errorf("a function runs in namespace %v, want %v", in, own.id)
	}
	if left, err := Leftovers(t.Context(), own); err != nil || len(left) != 0 {
		t.Errorf("rules of the own namespace: %v, %v", left, err)
	}
	if _, err := own.Gateways(t.Context()); err != nil {
		t.Errorf("gateways: %v", err)
	}
}

// TestDoorsOfOneNamespace has two processes of ours in a pod: one steers at a time.
func TestDoorsOfOneNamespace(t *testing.T) {
	n := newNetwork(t)
	inside := &Netns{file: n.pod.file, id: n.pod.id, own: true}
	open := func() (d *Door) {
		t.Helper()
		must(t, n.pod.In(t.Context(), func() (err error) {
			d, err = OpenDoor(t.Context(), inside, Options{Linger: time.Millisecond})
			return err
		}))
		t.Cleanup(func() { d.Close() })
		return d
	}
	engage := func(d *Door) error {
		return n.pod.In(t.Context(), func() error { return d.Engage(t.Context(), appPort) })
	}
	first := open()
	must(t, engage(first))
	must(t, first.Disengage(t.Context()))
	if got, err := Leftovers(t.Context(), n.pod); err != nil || got != nil {
		t.Errorf("left over: got %v, %v, want nothing", got, err)
	}
	second := open()
	must(t, engage(second))
	if err := engage(first); !errors.Is(err, ErrHeld) {
		t.Errorf("while another is engaged: got %v, want %v", err, ErrHeld)
	}
	must(t, second.Shutdown(t.Context()))
	must(t, engage(first))
	must(t, first.Close())
	if err := engage(first); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: got %v, want %v", err, net.ErrClosed)
	}
}

func TestGateways(t *testing.T) {
	for _, tt := range []struct {
		line  string
		parse func(string) (netip.Addr, bool)
		want  string // "" for none
	}{
		{"Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n", gateway4, ""},
		{"eth0\t00000000\t0100580A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n", gateway4, "10.88.0.1"},
		{"eth0\t0000580A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n", gateway4, ""},
		{"eth0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n", gateway4, ""}, // a link without one
		{"eth0\t00000000\tXX\n", gateway4, ""},
		{"00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 1 0 00000003 eth0\n", gateway6, "fd00::1"},
		{"00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 1 0 00200200 lo\n", gateway6, ""},
		{"fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 1 0 00000001 eth0\n", gateway6, ""},
		{"", gateway6, ""},
	} {
		got, ok := tt.parse(tt.line)
		if ok != (tt.want != "") || ok && got.String() != tt.want {
			t.Errorf("%q: got %v, %v, want %q", tt.line, got, ok, tt.want)
		}
	}
}

func TestTheMainProcessBesideUs(t *testing.T) {
	type process struct{ command, cgroup, stat string }
	stat := func(pid, parent, started int) string {
		return fmt.Sprintf("%d (x) S %d 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 %d 0 0\n", pid, parent, started)
	}
	one := func(command string) process { return process{command, "0::/../" + otherID + "\n", stat(1, 0, 5)} }
	for _, tt := range []struct {
		name      string
		processes map[int]process
		want      int // 0 for none
	}{
		{"process 1 is the container's", map[int]process{1: one("./cart\x00")}, 1},
		{"all containers share", map[int]process{
			1: one("/pause\x00"),
			7: {"./cart\x00", "0::/../cri-containerd-" + testID + ".scope\n", stat(7, 0, 20)},
			8: {"sh\x00", "0::/../cri-containerd-" + testID + ".scope\n", stat(8, 7, 21)},
			9: {"gate\x00", "0::/\n", stat(9, 0, 30)},
		}, 7},
		{"in cgroups of version 1", map[int]process{
			1: one("/pause\x00"), 7: {"./cart\x00", "4:memory:/kubepods/burstable/podx/" + testID + "\n", stat(7, 0, 20)},
		}, 7},
		{"another container runs by now", map[int]process{
			1: one("/pause\x00"), 7: {"./cart\x00", "0::/../" + otherID + "\n", stat(7, 0, 20)},
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for pid, p := range tt.processes {
				sub := filepath.Join(dir, strconv.Itoa(pid))
				must(t, os.Mkdir(sub, 0o755))
				for name, text := range map[string]string{"cmdline": p.command, "cgroup": p.cgroup, "stat": p.stat} {
					must(t, os.WriteFile(filepath.Join(sub, name), []byte(text), 0o644))
				}
			}
			got, err := Proc(dir).Beside(t.Context(), "containerd://"+testID)
			if tt.want == 0 {
				if !errors.Is(err, ErrGone) {
					t.Errorf("got %+v, %v, want %v", got, err, ErrGone)
				}
				return
			}
			if err != nil || got.PID != tt.want || got.check() != nil {
				t.Errorf("got %+v, %v, want process %d", got, err, tt.want)
			}
		})
	}
}
