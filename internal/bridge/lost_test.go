package bridge

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	core "k8s.io/api/core/v1"

	"github.com/bightdev/bight/internal/stream"
)

const (
	lostNews = "the connection to the cluster is lost; open connections wait for it, intercepted requests go to the app"
	backNews = "the connection to the cluster is back after 3s"
)

func TestOnlyTheClustersLossIsTold(t *testing.T) {
	stays, goes := &line{&core.Pod{}}, &line{&core.Pod{}}
	for _, test := range []struct {
		name   string
		lost   []*line
		back   bool // after 3 s
		during []string
		after  []string
	}{
		{"out of reach for 3 s", []*line{stays}, true, []string{lostNews}, []string{lostNews, backNews}},
		{"a pod that goes", []*line{goes}, false, nil, nil},
		{"a pod that goes has its session end", []*line{goes}, true, nil, nil},
		{"both", []*line{goes, stays}, true, []string{lostNews}, []string{lostNews, backNews}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var said []string
				l := &losses{
					say:   func(text string) { said = append(said, text) },
					going: func(_ context.Context, pod *core.Pod) bool { return pod == goes.pod },
				}
				for _, a := range test.lost {
					l.lose(a)
				}
				time.Sleep(3 * time.Second)
				synctest.Wait()
				if !slices.Equal(said, test.during) {
					t.Errorf("while it is lost: %q, want %q", said, test.during)
				}
				if test.back {
					for _, a := range test.lost {
						l.regain(a)
					}
				}
				if !slices.Equal(said, test.after) {
					t.Errorf("in the end: %q, want %q", said, test.after)
				}
				// What is lost later is told as before.
				if len(l.lost) > 0 {
					t.Fatalf("%d lines are lost", len(l.lost))
				}
				l.lose(stays)
				time.Sleep(2 * bearable)
				synctest.Wait()
				if want := append(slices.Clone(test.after), lostNews); !slices.Equal(said, want) {
					t.Errorf("when the cluster is lost: %q, want %q", said, want)
				}
			})
		})
	}
}

func TestWhatAnAgentsEndHasCutIsTold(t *testing.T) {
	for _, test := range []struct {
		name string
		why  error
		want string
	}{
		{"the agent was started anew", fmt.Errorf("connect: %w", stream.ErrSessionLost), backNews + "; an agent was started anew meanwhile, so connections that were open through the one before are cut"},
		{"the session ended otherwise", stream.ErrPeerClosed, backNews},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var said []string
				l := &losses{say: func(text string) { said = append(said, text) }, going: func(context.Context, *core.Pod) bool { return false }}
				cut, kept := &line{&core.Pod{}}, &line{&core.Pod{}}
				lose := func(end func(*line)) {
					l.lose(cut)
					l.lose(kept)
					time.Sleep(3 * time.Second)
					end(cut)
					l.regain(kept)
				}
				lose(func(a *line) { l.replace(a, test.why) })
				lose(l.regain) // has nothing of the time before
				if want := []string{lostNews, test.want, lostNews, backNews}; !slices.Equal(said, want) {
					t.Errorf("%q, want %q", said, want)
				}
			})
		})
	}
}

func TestAShortLossIsNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &losses{say: func(text string) { t.Errorf("it says %q", text) }, going: func(context.Context, *core.Pod) bool { return false }}
		a := &line{&core.Pod{}}
		for range 3 {
			l.lose(a)
			time.Sleep(bearable / 2)
			l.regain(a)
			time.Sleep(bearable)
		}
	})
}

func TestTheEndIsNotTheClustersReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said []string
		l := &losses{say: func(text string) { said = append(said, text) }, going: func(context.Context, *core.Pod) bool { return false }}
		a := &line{&core.Pod{}}
		l.lose(a)
		time.Sleep(2 * bearable)
		synctest.Wait()
		l.end()
		l.regain(a)
		if want := []string{lostNews}; !slices.Equal(said, want) {
			t.Errorf("it says %q, want %q", said, want)
		}
	})
}
