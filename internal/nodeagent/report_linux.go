package nodeagent

import (
	"context"
	"encoding/json"
	"log/slog"
	"reflect"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/utils/ptr"

	"github.com/bightdev/bight/api/v1alpha1"
)

// subject is an object that is reported about; another of the same name has another
// UID.
type subject struct {
	kind string
	types.NamespacedName
	uid types.UID
}

const (
	kindIntercept = "Intercept"
	kindRelease   = "Release"
)

func releaseSubject(r *v1alpha1.Release) subject {
	return subject{kindRelease, types.NamespacedName{Namespace: r.Namespace, Name: r.Name}, r.UID}
}

// resource is what the API calls the kind.
func (s subject) resource() schema.GroupVersionResource {
	if s.kind == kindRelease {
		return v1alpha1.Releases()
	}
	return v1alpha1.Intercepts()
}

// lasts says whether what was said of the subject stays when there is no more to say: a
// release's numbers are its history.
func (s subject) lasts() bool { return s.kind == kindRelease }

// reporter writes what the posts have done into the status of what they have done it
// for. Each node owns its own entry there.
type reporter struct {
	client dynamic.Interface
	node   string
	log    *slog.Logger
	wake   chan struct{} // has room for one

	mu   sync.Mutex
	want map[subject]any // this node's part of the status

	written map[subject]any // of run alone
}

// report says what there is to tell, the latest winning.
func (r *reporter) report(all map[subject]any) {
	r.mu.Lock()
	r.want = all
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run writes until ctx ends.
func (r *reporter) run(ctx context.Context) error {
	r.written = map[subject]any{}
	var again <-chan time.Time
	for {
		select {
		case <-r.wake:
		case <-again:
		case <-ctx.Done():
			return nil
		}
		again = nil
		r.mu.Lock()
		want := r.want
		r.mu.Unlock()
		for name := range r.written {
			if _, there := want[name]; !there {
				if !name.lasts() {
					if err := r.write(ctx, name, struct{}{}); err != nil {
						again = time.After(patience)
						continue
					}
				}
				delete(r.written, name)
			}
		}
		for name, status := range want {
			if reflect.DeepEqual(r.written[name], status) {
				continue
			}
			if err := r.write(ctx, name, status); err != nil {
				r.log.Warn("what was done is not written into the status", "of", name.kind, "name", name.String(), "err", err)
				again = time.After(patience)
				continue
			}
			r.written[name] = status
		}
	}
}

// write applies this node's entry. What is no more needs none.
func (r *reporter) write(ctx context.Context, name subject, status any) error {
	body, err := json.Marshal(map[string]any{
		"apiVersion": v1alpha1.GroupVersion().String(), "kind": name.kind,
		"metadata": map[string]any{"name": name.Name, "namespace": name.Namespace, "uid": name.uid},
		"status":   status,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err = r.client.Resource(name.resource()).Namespace(name.Namespace).Patch(ctx, name.Name, types.ApplyPatchType, body,
		metav1.PatchOptions{FieldManager: "bight-node-" + r.node, Force: ptr.To(true)}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // it is no more, or another
		return nil
	}
	return err
}
