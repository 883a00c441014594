package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/bightdev/bight/internal/stream"
)

// bearable is how long a connection may be away before anybody is told.
const bearable = time.Second

// asking is how long it may take to find out whether it is the pod that has gone.
const asking = time.Second

// line is a session with one pod, as far as the user hears of it.
type line struct{ pod *core.Pod }

// losses are the lines that are cut. The user is told when the cluster is out of reach,
// and when it is back; pods that go are no loss, because others take their place.
type losses struct {
	say   func(string)
	going func(context.Context, *core.Pod) bool // whether a pod is about to go, or has gone

	mu    sync.Mutex
	lost  map[*line]bool
	since time.Time   // they are
	tell  *time.Timer // the user of it
	told  bool
	cut   bool // one of them has lost what was open, since its agent was started anew
	over  bool // the lines that are lost are not wanted any more
}

// end takes in that the lines there are will end because nobody wants them any more.
func (l *losses) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
}

func (l *losses) lose(a *line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost == nil {
		l.lost = map[*line]bool{}
	}
	l.lost[a] = true
	if len(l.lost) == 1 {
		l.over = false
		since := time.Now()
		l.since, l.told, l.cut = since, false, false
		l.tell = time.AfterFunc(bearable, func() { l.look(since) })
	}
}

// regain takes in that a line is there again, or is not needed any more.
func (l *losses) regain(a *line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.lost[a] {
		return
	}
	delete(l.lost, a)
	if len(l.lost) > 0 {
		return
	}
	l.tell.Stop()
	if l.told && !l.over {
		after := ""
		if l.cut {
			after = "; an agent was started anew meanwhile, so connections that were open through the one before are cut"
		}
		l.say(fmt.Sprintf("the connection to the cluster is back after %s%s", time.Since(l.since).Round(100*time.Millisecond), after))
	}
}

// replace takes in that a line ends, for whatever reason, and another one takes its place.
func (l *losses) replace(a *line, why error) {
	l.mu.Lock()
	if l.lost[a] && errors.Is(why, stream.ErrSessionLost) {
		l.cut = true
	}
	l.mu.Unlock()
	l.regain(a)
}

// look tells the user of the lines that are cut since then, unless it is by the end of
// their pods.
func (l *losses) look(since time.Time) {
	l.mu.Lock()
	var cut []*line
	for a := range l.lost {
		cut = append(cut, a)
	}
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), asking)
	defer cancel()
	var all sync.WaitGroup
	for _, a := range cut {
		all.Go(func() {
			if l.going(ctx, a.pod) {
				l.regain(a)
			}
		})
	}
	all.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lost) > 0 && l.since.Equal(since) {
		l.told = true
		l.say("the connection to the cluster is lost; open connections wait for it, intercepted requests go to the app")
	}
}

// fate is what has become of a pod: whether it is about to go, and whether it has gone.
// Its name may be another one's by now.
func (b *Bridge) fate(ctx context.Context, pod *core.Pod) (going, gone bool, err error) {
	client, err := b.Cluster.Typed()
	if err != nil {
		return false, false, err
	}
	list, err := client.CoreV1().Pods(b.Namespace).List(ctx, meta.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", pod.Name).String()})
	if err != nil {
		return false, false, err
	}
	for i := range list.Items {
		if p := &list.Items[i]; p.UID == pod.UID {
			gone = p.Status.Phase == core.PodSucceeded || p.Status.Phase == core.PodFailed
			return gone || p.DeletionTimestamp != nil, gone, nil
		}
	}
	return true, true, nil
}
