//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/release/verdict"
)

// killLeader kills the controller's process.
func (b *bay) killLeader() {
	b.Helper()
	pods, err := client.CoreV1().Pods("bight-system").List(context(), meta.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	killed := 0
	for _, process := range processes(b.T, "/srv/app/bight-outer\x00controller") {
		file, _, _ := strings.Cut(process, " ")
		cgroup, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cgroup"))
		if err != nil || !slices.ContainsFunc(pods.Items, func(p core.Pod) bool { return strings.Contains(string(cgroup), string(p.UID)) }) {
			continue // of another cluster
		}
		var pid int
		if _, err := fmt.Sscanf(file, "/proc/%d/", &pid); err != nil {
			b.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			b.Fatal(err)
		}
		killed++
	}
	if killed == 0 {
		b.Fatal("there is no controller to kill")
	}
}

// ordered is how long an order has taken until every pod obeyed, as the command tells.
func (b *bay) ordered(args ...string) time.Duration {
	b.Helper()
	said, errs, code := b.bight(append([]string{"release"}, append(args, "-n", b.namespace, "-o", "json")...)...)
	var a struct{ MS float64 }
	if err := json.Unmarshal([]byte(said), &a); code != 0 || err != nil {
		b.Fatalf("release %v: exit code %d, %v\n%s%s", args, code, err, said, errs)
	}
	return time.Duration(a.MS * float64(time.Millisecond))
}

// testLeaderKilledAtUndo kills the controller at an undo; git is gone with it, which it
// serves. What its judge was told leads through both of its processes.
func testLeaderKilledAtUndo(b *bay) {
	b.release("led", fmt.Sprintf(hold, 50), "Held")
	b.pour()
	b.eventually("the judge's state is written down", func() error {
		var kept struct {
			Judge struct{ Canary verdict.Tally }
		}
		e := b.current().Status.Evidence
		if e == nil {
			return errors.New("there is none")
		}
		err := json.Unmarshal(e.Raw, &kept)
		if err == nil && kept.Judge.Canary == (verdict.Tally{}) {
			err = errors.New("it has no request to the version")
		}
		return err
	})
	b.killLeader()
	b.soon("undone as the leader was killed, with no git (target 250 ms)", b.ordered("undo", tillNamed), time.Second)
	if by := b.shares(100); by["app"] != 100 {
		b.Errorf("what is undone answers: %v", by)
	}
	b.reaches("Undone")
	b.unharmed("the leader is killed at an undo")
	b.unreleased()
	for _, j := range b.tried(verdict.Collecting, tillNamed, "-n", b.namespace) {
		last := j.Points[len(j.Points)-1]
		b.Logf("%s: computed again through its processes, the same: %v; %d observations lost; %d requests to the version", j.Judge, j.Same, j.Lost, last.Canary.Requests)
		if !j.Same || last.Canary.Requests == 0 {
			b.Errorf("%+v", j.Verdict)
		}
	}
}

// testLeaderKilledWhileKept takes all requests back from a version that is promoted, when
// there is no controller.
func testLeaderKilledWhileKept(b *bay) {
	was := b.present()
	b.release("wed", "strategy: BlueGreen\nthen: promote\nfor: 1s\nkeep: 10m\njudge: {settle: 1s}\n", "Promoted")
	b.pour()
	b.only("wed", "after the switch")
	b.killLeader()
	b.soon("undone while the pods of before are kept, and as the leader was killed (target 250 ms)", b.ordered("undo", tillNamed), time.Second)
	b.only(was, "undone")
	b.eventually("the next leader goes on", func() error { // which may be over in a moment
		if r := b.current(); r.Status.Phase != "Undoing" && r.Status.Phase != "Undone" {
			return fmt.Errorf("%s: %s", r.Status.Phase, r.Status.Message)
		}
		return nil
	})
	b.patchPlan("keep: 1s")
	b.reaches("Undone")
	b.unharmed("the leader is killed while a version can be undone")
	b.unreleased()
}
