package bridge

import (
	"context"
	"slices"
	"sync"
	"time"

	core "k8s.io/api/core/v1"

	"github.com/bightdev/bight/internal/stream"
)

// way leads out of one pod of a service, and of another one when that is gone. It
// is a reach.Opener.
type way struct {
	b       *Bridge
	service string
	ctx     context.Context // of the sessions
	stop    context.CancelFunc

	mu   sync.Mutex
	pod  string
	sess *stream.Session
	end  context.CancelFunc // of sess
}

// way opens a way through a pod of a service, or of any.
func (b *Bridge) way(ctx context.Context, service string) (*way, error) {
	w := &way{b: b, service: service}
	w.ctx, w.stop = context.WithCancel(ctx)
	if _, err := w.session(ctx); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// through names the pod.
func (w *way) through() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod
}

func (w *way) close() {
	w.mu.Lock()
	sess, end := w.sess, w.end
	w.mu.Unlock()
	if sess != nil {
		farewell(sess, end)
	}
	w.stop()
	if sess != nil {
		<-sess.Done()
	}
}

// session returns the session to the present pod. When that has ended, it looks for
// another pod, for as long as ctx and a moment allow.
func (w *way) session(ctx context.Context) (*stream.Session, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sess != nil && w.sess.Err() == nil && !w.leftBehind(ctx) {
		return w.sess, nil
	}
	first := w.sess == nil
	deadline := time.Now().Add(10 * time.Second)
	for {
		sess, pod, err := w.open(ctx)
		if err == nil {
			if !first && pod != w.pod {
				w.b.Log.Debug("the way leads through another pod", "pod", pod, "before", w.pod)
			}
			w.sess, w.pod = sess, pod
			return sess, nil
		}
		if first || time.Now().After(deadline) {
			return nil, err
		}
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// leftBehind reports whether the pod that the way leads through has gone, or is
// going; a session waits longer than that for its transport. What was open through
// that pod is over. The caller has the lock.
func (w *way) leftBehind(ctx context.Context) bool {
	const patience = time.Second
	if st := w.sess.State(); st.Kind != stream.Lost || time.Since(st.At) < patience {
		return false
	}
	limited, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	pods, err := w.b.pods(limited, w.service)
	if err != nil || slices.ContainsFunc(pods, func(p core.Pod) bool { return p.Name == w.pod }) {
		return false
	}
	w.end()
	return true
}

func (w *way) open(ctx context.Context) (*stream.Session, string, error) {
	pods, err := w.b.pods(ctx, w.service)
	if err != nil {
		return nil, "", err
	}
	err = w.b.missing(w.service)
	for i := range pods {
		var sess *stream.Session
		life, end := context.WithCancel(w.ctx)
		if sess, err = w.b.connect(life, &pods[i], nil); err == nil {
			w.end = end
			return sess, pods[i].Name, nil
		}
		end()
		if ctx.Err() != nil {
			break
		}
	}
	return nil, "", err
}

// Open opens a stream to the pod's agent.
func (w *way) Open(ctx context.Context, header []byte) (*stream.Stream, error) {
	sess, err := w.session(ctx)
	if err != nil {
		return nil, err
	}
	return sess.Open(ctx, header)
}
