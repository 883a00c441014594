package nodeagent

import (
	"context"
	"encoding/json"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/utils/ptr"

	"github.com/bightdev/bight/api/v1alpha1"
)

// subject is an Intercept; another of the same name has another UID.
type subject struct {
	types.NamespacedName
	uid types.UID
}

// reporter writes what the posts have done into the Intercepts' status. Each node
// owns its own entry there.
type reporter struct {
	client dynamic.Interface
	node   string
	log    *slog.Logger
	wake   chan struct{} // has room for one

	mu   sync.Mutex
	want map[subject][]v1alpha1.PodStatus

	written map[subject][]v1alpha1.PodStatus // of run alone
}

// report says what there is to tell, the latest winning.
func (r *reporter) report(all map[subject][]v1alpha1.PodStatus) {
	for _, pods := range all {
		slices.SortFunc(pods, func(a, b v1alpha1.PodStatus) int { return strings.Compare(a.Name, b.Name) })
	}
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
	r.written = map[subject][]v1alpha1.PodStatus{}
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
				if err := r.write(ctx, name, nil); err != nil {
					again = time.After(patience)
					continue
				}
				delete(r.written, name)
			}
		}
		for name, pods := range want {
			if reflect.DeepEqual(r.written[name], pods) {
				continue
			}
			if err := r.write(ctx, name, pods); err != nil {
				r.log.Warn("the state of an Intercept is not written", "name", name.String(), "err", err)
				again = time.After(patience)
				continue
			}
			r.written[name] = pods
		}
	}
}

// write applies this node's entry. One that is no more needs none.
func (r *reporter) write(ctx context.Context, name subject, pods []v1alpha1.PodStatus) error {
	status := v1alpha1.InterceptStatus{}
	if len(pods) > 0 {
		status.Nodes = []v1alpha1.NodeStatus{{Node: r.node, Pods: pods}}
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": v1alpha1.GroupVersion().String(), "kind": "Intercept",
		"metadata": map[string]any{"name": name.Name, "namespace": name.Namespace, "uid": name.uid},
		"status":   status,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err = r.client.Resource(v1alpha1.Intercepts()).Namespace(name.Namespace).Patch(ctx, name.Name, types.ApplyPatchType, body,
		metav1.PatchOptions{FieldManager: "bight-node-" + r.node, Force: ptr.To(true)}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // it is no more, or another
		return nil
	}
	return err
}
