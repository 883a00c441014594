package apart

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bightdev/bight/internal/change/suite"
	"github.com/bightdev/bight/internal/kube/follow"
)

// maxOutput is how much the tests of one package may print.
const maxOutput = 64 << 20

// watched is a pod whose log is read.
type watched struct {
	runner  *Runner
	pod     string
	reading *suite.Reading
	read    int64
	tooMuch bool
}

// follow reads the pod's log to its end and returns the pod as it was last, nil when
// somebody has deleted it.
func (w *watched) follow(ctx context.Context) (*corev1.Pod, error) {
	pod, err := w.await(ctx, starting, begun)
	for err == nil && pod != nil {
		if err := w.copy(ctx); err != nil || w.tooMuch || ended(pod) {
			return pod, err
		}
		// The log has ended, so the pod has or is about to; or the connection was lost.
		// Either way, what is left of the log is read.
		now, waited := w.await(ctx, 10*time.Second, ended)
		if !errors.Is(waited, errWaited) {
			pod, err = now, waited
		}
	}
	return pod, err
}

// begun reports whether a pod has, or had, a log.
func begun(pod *corev1.Pod) bool {
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Running != nil || c.State.Terminated != nil {
			return true
		}
	}
	return ended(pod)
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

var (
	errSeen   = errors.New("seen")
	errWaited = errors.New("waited in vain")
)

// await waits until seen is true of the pod, or it is gone.
func (w *watched) await(ctx context.Context, limit time.Duration, seen func(*corev1.Pod) bool) (*corev1.Pod, error) {
	why := "nothing is known of it"
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last *corev1.Pod
	var fatal bool
	only := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", w.pod).String()}
	err := follow.Of(w.runner.Client.CoreV1().Pods(w.runner.Namespace), only).Changes(limited, "", func(c follow.Change) error {
		last = nil
		switch {
		case c.Event == "" && len(c.All) > 0:
			last = c.All[0].(*corev1.Pod)
		case c.Event != "" && c.Event != watch.Deleted:
			last = c.Object.(*corev1.Pod)
		}
		if last == nil || seen(last) {
			return errSeen
		}
		if why, fatal = waitingFor(last); fatal {
			return errWaited
		}
		return nil
	})
	switch {
	case errors.Is(err, errSeen):
		return last, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case limited.Err() != nil || fatal:
		return last, fmt.Errorf("%w: its pod %s/%s has not begun: %s", errWaited, w.runner.Namespace, w.pod, why)
	}
	return nil, err
}

// copy reads the log from where it was left.
func (w *watched) copy(ctx context.Context) error {
	stream, err := w.runner.Client.CoreV1().Pods(w.runner.Namespace).GetLogs(w.pod, &corev1.PodLogOptions{Container: "tests", Follow: true}).Stream(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		w.runner.Log.Info("the log of a pod of tests can't be read", "pod", w.pod, "err", err)
		return nil // it is tried again, or the pod has ended without one
	}
	defer stream.Close()
	if _, err := io.CopyN(io.Discard, stream, w.read); err != nil {
		return ctx.Err() // it has less than before: the end of the pod says the rest
	}
	n, err := io.Copy(w.reading, io.LimitReader(stream, maxOutput-w.read+1))
	w.read += n
	w.tooMuch = w.read > maxOutput
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		w.runner.Log.Info("the log of a pod of tests broke off", "pod", w.pod, "err", err)
	}
	return nil
}
