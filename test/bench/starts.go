package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
)

// firstUp measures bight up --once of a Go service with nothing cached but the
// compiler's cache, against a bare go build and the start of a bare pod with the
// program that it made.
//
// Nothing is cached for either: the bare pod's image is in the registry (to push
// it is not counted) but not on the node. Ours has to make the namespace, the
// image and the objects; its cache directory is empty each time, and the agent is
// another file each time, so that neither the registry nor the node have its layer
// or the program's. A second row compares with a bare pod whose image the node has.
func firstUp(ctx context.Context, b *bed) ([]row, error) {
	// The same source gives the same image wherever it lies: no run before has had this.
	own := strings.Replace(smallMod, "module ", fmt.Sprintf("module t%d.", time.Now().UnixNano()), 1)
	files := map[string]string{"go.mod": own, "main.go": smallSource(marker(0))}
	dir, err := b.write("first", files)
	if err != nil {
		return nil, err
	}
	bare, err := b.write("first-bare", files)
	if err != nil {
		return nil, err
	}
	if err := b.copyProgram("bight", ""); err != nil {
		return nil, err
	}
	removeBox, err := b.box(ctx, "bench-box")
	if err != nil {
		return nil, err
	}
	defer removeBox()
	known := func(ctx context.Context, round int) (time.Duration, error) {
		return b.startPod(ctx, "bench-box", barePod(fmt.Sprintf("known-%d", round), b.boxImage, "/box", "wait"))
	}
	up := func(ctx context.Context, round int) (time.Duration, error) { return b.firstOnce(ctx, dir, round) }
	all, err := b.alternate(ctx, []string{"go build", "bare pod, pulled", "bare pod, known", "bight up --once"},
		b.goBuild(bare, edit(smallSource)), b.pulledPod("bench-box", b.builtBy(bare)), known, up)
	if err != nil {
		return nil, err
	}
	account, err := accountOf(dir)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("go build (%s) + a bare pod of that program, from created to ready", durations("", all[0]))
	pulled := durations(fmt.Sprintf("%s, its image in the registry but not on the node (%s)", what, durations("", all[1])), sums(all[0], all[1]))
	onNode := durations(fmt.Sprintf("the same with a bare pod whose image is on the node (%s)", durations("", all[2])), sums(all[0], all[2]))
	ours := durations("the whole program: no cache of its own, no namespace, no layer in the registry or on the node", all[3])
	return []row{
		{Name: "first bight up --once of a Go service", Reference: &pulled, Limit: 1.3, Phases: account, Ours: ours},
		{Name: "the same, to a bare pod with its image on the node", Reference: &onNode, Ours: ours},
	}, nil
}

func sums(a, b []time.Duration) []time.Duration {
	var all []time.Duration
	for i := range a {
		all = append(all, a[i]+b[i])
	}
	return all
}

// pulledPod measures the start of a bare pod with a program that the node does
// not have yet.
func (b *bed) pulledPod(namespace, program string) action {
	return func(ctx context.Context, round int) (time.Duration, error) {
		image, err := b.pushProgram(ctx, program)
		if err != nil {
			return 0, err
		}
		return b.startPod(ctx, namespace, barePod(fmt.Sprintf("pulled-%d", round), image, "/"+filepath.Base(program)))
	}
}

// firstOnce runs bight up --once as though for the first time.
func (b *bed) firstOnce(ctx context.Context, dir string, round int) (time.Duration, error) {
	namespace := fmt.Sprintf("bench-first-%d", round)
	defer b.remove(ctx, namespace)
	if err := edit(smallSource)(dir, round+1); err != nil {
		return 0, err
	}
	if err := b.copyProgram("bight-agent", fmt.Sprintf("copy %d of %s", round, b.work)); err != nil {
		return 0, err
	}
	cache, err := os.MkdirTemp(b.work, "cache-")
	if err != nil {
		return 0, err
	}
	// The go command's cache is below it by default: it is said where that is.
	compiler, _, err := runIn(ctx, dir, nil, "go", "env", "GOCACHE")
	if err != nil {
		return 0, err
	}
	env := []string{"XDG_CACHE_HOME=" + cache, "GOCACHE=" + compiler[:len(compiler)-1]}
	_, took, err := runIn(ctx, dir, env, filepath.Join(b.work, "bin", "bight"), "up", "--once", "-n", namespace, "--events", eventsOfRound(dir, round))
	return took, err
}

func eventsOfRound(dir string, round int) string { return fmt.Sprintf("%s.%d.events", dir, round) }

// copyProgram copies one of the programs into the scratch directory, with some
// bytes after its end.
func (b *bed) copyProgram(name, more string) error {
	content, err := os.ReadFile(b.program(name))
	if err != nil {
		return err
	}
	dir := filepath.Join(b.work, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), append(content, more...), 0o755)
}

// accountOf returns the medians of what the rounds' events say of their parts.
func accountOf(dir string) (map[string]float64, error) {
	files, err := filepath.Glob(dir + ".*.events")
	if err != nil {
		return nil, err
	}
	var all []event
	for _, file := range files {
		if file == eventsOfRound(dir, 0) {
			continue
		}
		s := session{events: file}
		merged := event{MS: map[string]float64{}}
		for _, kind := range []string{"build", "push", "deploy", "ready"} {
			events, err := s.eventsOf(kind)
			if err != nil {
				return nil, err
			}
			for _, e := range events {
				merged.MS[kind] = max(merged.MS[kind], e.MS["total"])
			}
		}
		all = append(all, merged)
	}
	return phases(all), nil
}

// unchangedUp measures bight up --once of an app of six services that is up and
// unchanged, against one kubectl get pods, and checks that no pod is replaced.
func unchangedUp(ctx context.Context, b *bed) ([]row, error) {
	dir := filepath.Join(b.work, "shop-unchanged")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(b.root, "examples", "shop"))); err != nil {
		return nil, err
	}
	const namespace = "bench-unchanged"
	defer b.remove(ctx, namespace)
	up := func(ctx context.Context, round int) (time.Duration, error) {
		_, took, err := runIn(ctx, dir, nil, b.program("bight"), "up", "--once", "-n", namespace, "--events", eventsOfRound(dir, round))
		return took, err
	}
	limited, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	if _, err := up(limited, 0); err != nil {
		return nil, err
	}
	before, err := b.pods(ctx, namespace)
	if err != nil {
		return nil, err
	}
	get := func(ctx context.Context, _ int) (time.Duration, error) {
		_, took, err := runIn(ctx, b.work, nil, b.kubectl, "get", "pods", "-n", namespace)
		return took, err
	}
	all, err := b.alternate(ctx, []string{"kubectl get pods", "bight up --once"}, get, up)
	if err != nil {
		return nil, err
	}
	after, err := b.pods(ctx, namespace)
	if err != nil {
		return nil, err
	}
	if was, is := identities(before), identities(after); !slices.Equal(was, is) {
		return nil, fmt.Errorf("pods were replaced although nothing had changed: %v became %v", was, is)
	}
	account, err := accountOf(dir)
	if err != nil {
		return nil, err
	}
	reference := durations("kubectl get pods of the same namespace", all[0])
	return []row{{
		Name: fmt.Sprintf("bight up --once, nothing changed, %d services", len(before)), Reference: &reference, Limit: 4, Phases: account,
		Ours: durations("the whole program; no pod was replaced or restarted", all[1]),
	}}, nil
}

// identities returns what differs when a pod is replaced or restarted.
func identities(pods []core.Pod) []string {
	var all []string
	for _, p := range pods {
		restarts := int32(0)
		for _, c := range p.Status.ContainerStatuses {
			restarts += c.RestartCount
		}
		all = append(all, fmt.Sprintf("%s %s restarts=%d", p.Name, p.UID, restarts))
	}
	slices.Sort(all)
	return all
}
