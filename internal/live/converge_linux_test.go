package live

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/tree"
)

// running returns a pod with a target that is in sync with files.
func running(t *testing.T, files map[string]string) (*pod, *Target, *events) {
	t.Helper()
	p := newPod(t, files)
	p.start()
	tg, ev := p.target("anna")
	p.want(tg, 1)
	ev.await(t, 0, "first sync", synced(1))
	return p, tg, ev
}

func TestEveryKindOfChange(t *testing.T) {
	p, tg, ev := running(t, map[string]string{
		"keep": "same", "gone": "x", "dir/sub/deep": "1", "dir/old-name": "moved content", "to-dir": "f", "exec": "#!",
	})
	steps := []struct {
		name string
		edit func(dir string) error
	}{
		{"edit one", func(d string) error { return os.WriteFile(d+"/keep", []byte("new"), 0o644) }},
		{"delete", func(d string) error { return os.Remove(d + "/gone") }},
		{"rename", func(d string) error { return os.Rename(d+"/dir/old-name", d+"/dir/new-name") }},
		{"rename a directory", func(d string) error { return os.Rename(d+"/dir", d+"/folder") }},
		{"mode", func(d string) error { return os.Chmod(d+"/exec", 0o755) }},
		{"mode without write", func(d string) error { return os.Chmod(d+"/exec", 0o444) }},
		{"symlink", func(d string) error { return os.Symlink("exec", d+"/link") }},
		{"symlink elsewhere", func(d string) error {
			return errors.Join(os.Remove(d+"/link"), os.Symlink("/etc/../nowhere", d+"/link"))
		}},
		{"file to directory", func(d string) error {
			return errors.Join(os.Remove(d+"/to-dir"), os.Mkdir(d+"/to-dir", 0o755), os.WriteFile(d+"/to-dir/x", []byte("y"), 0o600))
		}},
		{"directory to file", func(d string) error {
			return errors.Join(os.RemoveAll(d+"/folder"), os.WriteFile(d+"/folder", nil, 0o644))
		}},
		{"symlink to directory of that name", func(d string) error {
			return errors.Join(os.Remove(d+"/link"), os.MkdirAll(d+"/link/in", 0o755), os.WriteFile(d+"/link/in/f", []byte("z"), 0o644))
		}},
		{"empty and closed directories", func(d string) error {
			return errors.Join(os.Mkdir(d+"/empty", 0o755), os.Mkdir(d+"/closed", 0o700), os.WriteFile(d+"/closed/f", nil, 0o644))
		}},
		{"directory that can't be written to", func(d string) error { return os.Chmod(d+"/closed", 0o500) }},
		{"odd names", func(d string) error {
			return errors.Join(
				os.WriteFile(d+"/new\nline", []byte("1"), 0o644), os.WriteFile(d+"/not\xffutf8", []byte("2"), 0o644),
				os.WriteFile(d+"/ spaces ", []byte("3"), 0o644), os.WriteFile(d+"/..dots", []byte("4"), 0o644),
				os.WriteFile(d+"/"+strings.Repeat("n", 255), nil, 0o644))
		}},
		{"everything gone but one", func(d string) error {
			ents, err := os.ReadDir(d)
			for _, e := range ents {
				if e.Name() != "keep" {
					err = errors.Join(err, os.RemoveAll(filepath.Join(d, e.Name())))
				}
			}
			return err
		}},
		{"nothing at all", func(d string) error { return os.Remove(d + "/keep") }},
	}
	for i, s := range steps {
		seq := uint64(i + 2)
		if err := s.edit(p.src); err != nil {
			t.Fatal(err)
		}
		w := p.want(tg, seq)
		ev.await(t, 0, s.name, synced(seq))
		p.same(w)
		if d, err := tg.Verify(t.Context()); err != nil || d != w.Tree.Digest() {
			t.Errorf("%s: Verify = %s, %v", s.name, d, err)
		}
	}
	left, err := os.ReadDir(filepath.Join(p.dir, "live"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if n := e.Name(); strings.HasPrefix(n, "put-") {
			t.Errorf("%s was left behind", n)
		}
	}
}

func TestFiveThousandFilesInOnePatch(t *testing.T) {
	p, tg, ev := running(t, map[string]string{"one": "1"})
	for i := range 5000 {
		p.write(p.src, fmt.Sprintf("d%d/s%d/file%d", i%7, i%31, i), fmt.Sprintf("content of %d", i))
	}
	w := p.want(tg, 2)
	done, _ := ev.await(t, 0, "sync", synced(2))
	if done.Files != 5000 {
		t.Errorf("%d files in the patch, want 5000", done.Files)
	}
	t.Logf("%d files, %d bytes: diff %s, send %s, apply %s", done.Files, done.Bytes, done.Diff, done.Send, done.Apply)
	p.same(w)
}

func TestLargeFileGoesAsDelta(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	big := make([]byte, 3<<20)
	for i := range big {
		big[i] = byte(r.Uint32())
	}
	p := newPod(t, map[string]string{"big": string(big)})
	// A program: the first edit of one is a delta already.
	must(t, os.Chmod(filepath.Join(p.dir, "root", "big"), 0o755), os.Chmod(filepath.Join(p.src, "big"), 0o755))
	p.start()
	tg, ev := p.target("anna")
	p.want(tg, 1)
	ev.await(t, 0, "first sync", synced(1))
	for seq := uint64(2); seq < 5; seq++ {
		// Indexing happens after the sync, in the background.
		old := sha256.Sum256(big)
		for deadline := time.Now().Add(10 * time.Second); !tg.cfg.Bases.has(old); {
			if time.Now().After(deadline) {
				t.Fatal("the file was not indexed")
			}
			time.Sleep(time.Millisecond)
		}
		at := r.IntN(len(big) - 100)
		big = append(big[:at:at], append([]byte("inserted"), big[at:]...)...)
		// A new file, as a build makes one: the old one can still be read.
		p.src = t.TempDir()
		p.write(p.src, "big", string(big))
		w := p.want(tg, seq)
		done, _ := ev.await(t, 0, "sync", synced(seq))
		if done.Bytes > 10_000 || done.Content != int64(len(big)) {
			t.Errorf("%d bytes were sent for %d", done.Bytes, done.Content)
		}
		p.same(w)
	}
}

func TestDeltaAgainstAFileThatWasOverwrittenIsNotTrusted(t *testing.T) {
	p, tg, ev := running(t, map[string]string{"big": strings.Repeat("one version of it ", 5000)})
	for seq := uint64(2); seq < 6; seq++ {
		p.write(p.src, "big", strings.Repeat(fmt.Sprintf("version %d of it ", seq), 5000))
		w := p.want(tg, seq)
		ev.await(t, 0, "sync", synced(seq))
		p.same(w)
	}
}

func TestConnectionCut(t *testing.T) {
	p, tg, ev := running(t, map[string]string{"a": "1"})
	_, at := ev.await(t, 0, "first sync", synced(1))
	for seq := uint64(2); seq < 5; seq++ {
		p.cut.Store(true)
		p.drop()
		_, at = ev.await(t, at, "loss", kind(Lost))
		if s := tg.State(); s.InSync || s.Connected {
			t.Errorf("state while cut: %+v", s)
		}
		p.write(p.src, "a", fmt.Sprintf("while cut, %d", seq))
		w := p.want(tg, seq)
		p.cut.Store(false)
		_, at = ev.await(t, at, "sync", synced(seq))
		p.same(w)
	}
}

func TestCutInTheMiddleOfPatches(t *testing.T) {
	p, tg, ev := running(t, map[string]string{"a": "1"})
	r := rand.New(rand.NewPCG(1, 9))
	var w Wanted
	for seq := uint64(2); seq < 20; seq++ {
		for i := range 300 {
			p.write(p.src, fmt.Sprintf("f%d", i), strings.Repeat(fmt.Sprint(seq), 10_000))
		}
		w = p.want(tg, seq)
		for range r.IntN(5) {
			time.Sleep(time.Duration(r.IntN(8)) * time.Millisecond)
			p.drop()
		}
	}
	ev.await(t, 0, "sync", synced(w.Seq))
	p.same(w)
}

func TestAgentKilledAndStartedAgain(t *testing.T) {
	p, tg, ev := running(t, map[string]string{"a": "1", "b": "2"})
	p.write(p.src, "a", "newer")
	w := p.want(tg, 2)
	_, at := ev.await(t, 0, "sync", synced(2))
	p.manifest(w, "a")
	p.kill()
	// What an agent that died in the middle leaves behind.
	for _, n := range []string{"stage-9/x", "old-8/y", "put-7"} {
		p.write(filepath.Join(p.dir, "live"), n, "half")
	}
	p.start()
	up, at := ev.await(t, at, "connection", func(ev Event) bool { return ev.Kind == Connected && ev.State.Live })
	if up.State.Digest != w.Tree.Digest() || up.State.LastFrom != "anna" {
		t.Errorf("after its restart the agent has %s by %q", up.State.Digest.Short(), up.State.LastFrom)
	}
	p.write(p.src, "b", "newest")
	w = p.want(tg, 3)
	ev.await(t, at, "sync", synced(3))
	p.same(w)
	for _, n := range []string{"stage-9", "old-8", "put-7"} {
		if _, err := os.Lstat(filepath.Join(p.dir, "live", n)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", n, err)
		}
	}
}

func TestAgentKilledWhileStaging(t *testing.T) {
	p, tg, ev := running(t, map[string]string{"a": "1"})
	r := rand.New(rand.NewPCG(2, 2))
	for seq := uint64(2); seq < 8; seq++ {
		for i := range 600 {
			p.write(p.src, fmt.Sprintf("d%d/f%d", i%10, i), strings.Repeat(fmt.Sprint(seq), 4000))
		}
		w := p.want(tg, seq)
		time.Sleep(time.Duration(r.IntN(30)) * time.Millisecond)
		p.kill()
		// The tree that is there is a whole one: this or the one before.
		if _, err := os.Stat(filepath.Join(p.dir, "live", "app")); err == nil {
			n := map[string]int{}
			for i := range 600 {
				b, _ := os.ReadFile(filepath.Join(p.dir, "live", "app", fmt.Sprintf("d%d/f%d", i%10, i)))
				n[string(b[:min(1, len(b))])]++
			}
			if len(n) != 1 {
				t.Errorf("a mixture of trees is visible: %v", n)
			}
		}
		p.start()
		ev.await(t, 0, "sync", synced(seq))
		p.same(w)
	}
}

func TestNewPodIsBroughtUpToDate(t *testing.T) {
	p, tg, ev := running(t, map[string]string{"a": "1", "b": "2"})
	p.write(p.src, "a", "newer")
	w := p.want(tg, 2)
	_, at := ev.await(t, 0, "sync", synced(2))
	p.kill()
	if err := os.RemoveAll(filepath.Join(p.dir, "live")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(p.dir, "live"), 0o755); err != nil {
		t.Fatal(err)
	}
	p.start()
	ev.await(t, at, "sync", synced(2))
	p.same(w)
}

func TestFileThatChangesWhileItIsSent(t *testing.T) {
	p, tg, ev := running(t, map[string]string{"a": "1", "b": strings.Repeat("x", 1000)})
	p.write(p.src, "a", "2")
	w := Wanted{Tree: readTree(t, p.src), Restart: true, Seq: 2}
	p.write(p.src, "a", "3") // of the same size: only the agent can tell
	p.write(p.src, "b", "shorter")
	w3 := Wanted{Tree: readTree(t, p.src), Restart: true, Seq: 3}
	tg.Want(w)
	bad, _ := ev.await(t, 0, "problem", kind(Problem))
	if bad.Path != "a" {
		t.Errorf("problem with %q: %v", bad.Path, bad.Err)
	}
	if _, err := os.Stat(filepath.Join(p.dir, "live", "app")); err == nil {
		t.Error("something wrong became visible")
	}
	tg.Want(w3)
	ev.await(t, 0, "sync", synced(3))
	p.same(w3)
}

func TestFileThatIsShorterThanItWas(t *testing.T) {
	p, tg, ev := running(t, map[string]string{"a": "1"})
	p.write(p.src, "b", strings.Repeat("x", 1000))
	w := Wanted{Tree: readTree(t, p.src), Seq: 2}
	p.write(p.src, "b", "short")
	tg.Want(w)
	bad, _ := ev.await(t, 0, "problem", kind(Problem))
	if bad.Path != "b" || !errors.Is(bad.Err, errChanged) {
		t.Errorf("problem with %q: %v", bad.Path, bad.Err)
	}
	// Without another want it is tried again.
	p.write(p.src, "b", strings.Repeat("x", 1000))
	ev.await(t, 0, "sync", synced(2))
	p.same(w)
}

func TestNewerWantCancelsAnOlderOne(t *testing.T) {
	p, tg, ev := running(t, map[string]string{"a": "1"})
	var w Wanted
	for seq := uint64(2); seq < 60; seq++ {
		p.write(p.src, fmt.Sprintf("f%d", seq%5), strings.Repeat(fmt.Sprint(seq), 200_000))
		w = p.want(tg, seq)
	}
	ev.await(t, 0, "sync", synced(59))
	p.same(w)
}

func TestCrashIsReportedAndTheNextSaveHealsIt(t *testing.T) {
	p, tg, ev := running(t, map[string]string{"a": "1"})
	p.write(p.src, "crash", "index out of range")
	p.want(tg, 2)
	end, _ := ev.await(t, 0, "exit", kind(Exited))
	if end.Code != 3 || !strings.Contains(string(end.Output), "panic: index out of range") || end.Pause <= 0 {
		t.Errorf("exit: %+v, output %q", end, end.Output)
	}
	ev.await(t, 0, "another try", func(ev Event) bool { return ev.Kind == Exited && ev.Pause > end.Pause })
	if err := os.Remove(filepath.Join(p.src, "crash")); err != nil {
		t.Fatal(err)
	}
	_, at := ev.await(t, 0, "anything", func(Event) bool { return true })
	w := p.want(tg, 3)
	_, at = ev.await(t, at, "sync", synced(3))
	ev.await(t, at-1, "readiness", kind(Ready))
	p.same(w)
	out, err := tg.Output(t.Context())
	if err != nil || !strings.Contains(string(out), "panic: index out of range") {
		t.Errorf("Output = %q, %v", out, err)
	}
}

func TestProcessThatIgnoresSIGTERMIsReplaced(t *testing.T) {
	p, tg, ev := running(t, map[string]string{"stubborn": "yes"})
	ev.await(t, 0, "readiness", func(ev Event) bool {
		return ev.Kind == Ready || ev.Kind == Connected && ev.State.Process.Phase == wire.Ready
	})
	p.write(p.src, "a", "2")
	p.want(tg, 2)
	_, at := ev.await(t, 0, "sync", synced(2))
	up, _ := ev.await(t, at-1, "start", kind(Started))
	if up.After < 2*time.Second || up.After > 4*time.Second {
		t.Errorf("it was replaced after %s, want after the grace of 2 s", up.After)
	}
}

func TestTwoSessionsOnOnePod(t *testing.T) {
	p, anna, ea := running(t, map[string]string{"a": "1"})
	ben, eb := p.target("ben")
	up, _ := eb.await(t, 0, "connection", kind(Connected))
	if got := strings.Join(up.State.Clients, ","); !strings.Contains(got, "anna") || !strings.Contains(got, "ben") {
		t.Errorf("clients: %q", got)
	}
	p.write(p.src, "a", "ben's")
	p.want(ben, 1)
	eb.await(t, 0, "sync", synced(1))
	// Anna is told, by name, and does not fight.
	told, _ := ea.await(t, 0, "problem", kind(Problem))
	if !strings.Contains(told.Err.Error(), "(ben)") || anna.State().InSync {
		t.Errorf("anna is told %v, state %+v", told.Err, anna.State())
	}
	p.write(p.src, "a", "anna's")
	w := p.want(anna, 2)
	ea.await(t, 0, "sync", synced(2))
	p.same(w)
}

func TestWrongTokenIsRefused(t *testing.T) {
	p, _, _ := running(t, map[string]string{"a": "1"})
	ev := &events{new: make(chan struct{}, 1)}
	tg := NewTarget(TargetConfig{Name: "web-0", Dial: p.dial, Token: "guess", Events: ev.add})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = tg.Run(ctx) }()
	lost, _ := ev.await(t, 0, "refusal", kind(Lost))
	if !strings.Contains(lost.Err.Error(), "token") {
		t.Errorf("lost: %v", lost.Err)
	}
	cancel()
	<-done
}

func TestVerifyFindsWhatWasTamperedWith(t *testing.T) {
	p, tg, ev := running(t, map[string]string{"a": "1", "b": "2"})
	p.write(p.src, "a", "3")
	w := p.want(tg, 2)
	_, at := ev.await(t, 0, "sync", synced(2))
	p.write(filepath.Join(p.dir, "live", "app"), "b", "X") // of the same size
	d, err := tg.Verify(t.Context())
	if err != nil || d == w.Tree.Digest() {
		t.Errorf("Verify = %s, %v, want another digest than %s", d, err, w.Tree.Digest())
	}
	ev.await(t, at, "sync", synced(2))
	p.same(w)
}

func TestFilesThatTheProcessMadeStay(t *testing.T) {
	p, tg, ev := running(t, map[string]string{"a": "1", "d/b": "2"})
	p.write(p.src, "a", "2")
	p.want(tg, 2)
	ev.await(t, 0, "sync", synced(2))
	app := filepath.Join(p.dir, "live", "app")
	p.write(app, "cache.db", "data")
	p.write(app, "d/own/x", "data")
	p.write(p.src, "a", "3")
	p.write(p.src, "d/b", "3")
	w := p.want(tg, 3)
	ev.await(t, 0, "sync", synced(3))
	for _, n := range []string{"cache.db", "d/own/x"} {
		if b, err := os.ReadFile(filepath.Join(app, n)); string(b) != "data" {
			t.Errorf("%s: %q, %v", n, b, err)
		}
	}
	if d, err := tg.Verify(t.Context()); err != nil || d != w.Tree.Digest() {
		t.Errorf("Verify = %s, %v", d, err)
	}
}

func TestDialPortRefusesAtOnce(t *testing.T) {
	_, tg, _ := running(t, map[string]string{"a": "1"})
	var port int
	if _, err := fmt.Sscan(freePort(t), &port); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err := tg.DialPort(t.Context(), port)
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("DialPort = %v", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestHostilePatchesAreRefused(t *testing.T) {
	p, tg, ev := running(t, map[string]string{"a": "1", "dir/f": "2"})
	if err := os.Symlink("/tmp", filepath.Join(p.src, "out")); err != nil {
		t.Fatal(err)
	}
	p.want(tg, 2)
	_, at := ev.await(t, 0, "sync", synced(2))
	good := readTree(t, p.src)
	for i, name := range []string{"../x", "/etc/x", "a/../../x", "out/x", "a/x", "x/", "", ".", "./x", "x//y", "n\x00l"} {
		bad := tree.Tree{}
		for n, e := range good {
			bad[n] = e
		}
		bad[name] = good["a"]
		tg.Want(Wanted{Tree: bad, Seq: uint64(10 + i)})
		var told Event
		told, at = ev.await(t, at, "refusal of "+name, kind(Problem))
		if !strings.Contains(told.Err.Error(), "refused") {
			t.Errorf("%q: %v", name, told.Err)
		}
	}
	w := p.want(tg, 99)
	ev.await(t, at, "sync", synced(99))
	p.same(w)
}

// distant is a connection that takes a while.
type distant struct{ net.Conn }

func (c distant) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	time.Sleep(2 * farAway)
	return n, err
}

func TestPatchesThatGoFarAreCompressed(t *testing.T) {
	p := newPod(t, map[string]string{"a": "1"})
	p.far = true
	p.start()
	tg, ev := p.target("anna")
	p.want(tg, 1)
	ev.await(t, 0, "first sync", synced(1))
	for i := range 50 {
		p.write(p.src, fmt.Sprintf("text%d", i), strings.Repeat(fmt.Sprintf("line %d of a text\n", i), 2000))
	}
	w := p.want(tg, 2)
	done, _ := ev.await(t, 0, "sync", synced(2))
	if done.Bytes == 0 || done.Bytes > done.Content/10 {
		t.Errorf("%d bytes were sent for %d", done.Bytes, done.Content)
	}
	p.same(w)
}

func TestInspectAndRestart(t *testing.T) {
	p, tg, ev := running(t, map[string]string{"a": "1"})
	cfg := TargetConfig{Name: "web-0", Dial: p.dial, Token: "secret"}
	state, err := Inspect(t.Context(), cfg, false)
	if err != nil || state.Digest != tg.State().Want || state.Service != "web" || strings.Join(state.Clients, " ") != "anna" {
		t.Errorf("Inspect = %+v, %v", state, err)
	}
	p.write(filepath.Join(p.dir, "root"), "a", "2")
	state, err = Inspect(t.Context(), cfg, true)
	want := tree.Tree{"a": file("2")}.Digest()
	if err != nil || state.Digest != want {
		t.Errorf("Inspect with verify = %s, %v, want %s", state.Digest.Short(), err, want.Short())
	}
	_, at := ev.await(t, 0, "readiness", func(ev Event) bool {
		return ev.Kind == Ready || ev.Kind == Connected && ev.State.Process.Phase == wire.Ready
	})
	if err := tg.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, at = ev.await(t, at, "start", kind(Started))
	ev.await(t, at, "readiness", kind(Ready))
	cfg.Token = "wrong"
	if _, err := Inspect(t.Context(), cfg, false); err == nil || !strings.Contains(err.Error(), "token") {
		t.Errorf("with a wrong token: %v", err)
	}
}
