package follow

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// script is a server that answers each list and watch as it is told to.
type script struct {
	lists   []any // a resourceVersion, or an error
	watches []any // []watch.Event, or an error
	asked   []string
}

var errDone = errors.New("seen enough")

func (s *script) source() Source {
	return Source{
		List: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			s.asked = append(s.asked, "list")
			next := s.lists[0]
			s.lists = s.lists[1:]
			if err, ok := next.(error); ok {
				return nil, err
			}
			v := next.(string)
			return &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: v}, Items: []corev1.Pod{*podAt(v)}}, nil
		},
		Watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			s.asked = append(s.asked, "watch "+o.ResourceVersion)
			next := s.watches[0]
			s.watches = s.watches[1:]
			if err, ok := next.(error); ok {
				return nil, err
			}
			events := next.([]watch.Event)
			c := make(chan watch.Event, len(events))
			for _, e := range events {
				c <- e
			}
			close(c)
			return watch.NewProxyWatcher(c), nil
		},
	}
}

func podAt(version string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", ResourceVersion: version}}
}

func modified(version string) watch.Event {
	return watch.Event{Type: watch.Modified, Object: podAt(version)}
}

func gone() watch.Event {
	s := apierrors.NewResourceExpired("too old resource version").Status()
	return watch.Event{Type: watch.Error, Object: &s}
}

// TestFollow runs against a clock of its own, so pauses cost nothing.
func TestChanges(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	forbidden := apierrors.NewForbidden(pods, "", errors.New("no"))
	refused := errors.New("connection refused")
	for _, tc := range []struct {
		name    string
		from    string
		script  script
		stopAt  string // the version at which the consumer has seen enough
		asked   []string
		seen    []string
		wantErr error
	}{
		{"lists, then watches", "", script{lists: []any{"5"}, watches: []any{[]watch.Event{modified("6")}}}, "6",
			[]string{"list", "watch 5"}, []string{"all 5", "MODIFIED 6"}, errDone},
		{"begins where it is told", "5", script{watches: []any{[]watch.Event{modified("6")}}}, "6",
			[]string{"watch 5"}, []string{"MODIFIED 6"}, errDone},
		{"resumes a watch that ended", "5", script{watches: []any{[]watch.Event{modified("6")}, []watch.Event{modified("7")}}}, "7",
			[]string{"watch 5", "watch 6"}, []string{"MODIFIED 6", "MODIFIED 7"}, errDone},
		{"bookmarks move the place to resume", "5", script{watches: []any{[]watch.Event{{Type: watch.Bookmark, Object: podAt("9")}}, []watch.Event{modified("10")}}}, "10",
			[]string{"watch 5", "watch 9"}, []string{"MODIFIED 10"}, errDone},
		{"lists anew when the past is gone", "5", script{lists: []any{"20"}, watches: []any{[]watch.Event{gone()}, []watch.Event{modified("21")}}}, "21",
			[]string{"watch 5", "list", "watch 20"}, []string{"all 20", "MODIFIED 21"}, errDone},
		{"the watch itself is refused as too old", "5", script{lists: []any{"20"}, watches: []any{apierrors.NewResourceExpired("old")}}, "20",
			[]string{"watch 5", "list"}, []string{"all 20"}, errDone},
		{"survives a server that is away", "5", script{lists: []any{refused, refused, "20"}, watches: []any{refused, []watch.Event{gone()}}}, "20",
			[]string{"watch 5", "watch 5", "list", "list", "list"}, []string{"all 20"}, errDone},
		{"a first list that is refused is the answer", "", script{lists: []any{refused}}, "", []string{"list"}, nil, refused},
		{"no right to watch", "5", script{watches: []any{forbidden}}, "", []string{"watch 5"}, nil, forbidden},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var seen []string
				err := tc.script.source().Changes(t.Context(), tc.from, func(c Change) error {
					obj, word := c.Object, string(c.Event)
					if c.Event == "" {
						obj, word = c.All[0], "all"
					}
					version := obj.(*corev1.Pod).ResourceVersion
					seen = append(seen, word+" "+version)
					if version == tc.stopAt {
						return errDone
					}
					return nil
				})
				if !errors.Is(err, tc.wantErr) {
					t.Errorf("Changes = %v, want %v", err, tc.wantErr)
				}
				if d := cmp.Diff(tc.asked, tc.script.asked); d != "" {
					t.Errorf("requests (-want +got):\n%s", d)
				}
				if d := cmp.Diff(tc.seen, seen); d != "" {
					t.Errorf("changes (-want +got):\n%s", d)
				}
			})
		})
	}
}

func TestChangesEndWithTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := script{lists: []any{"1"}}
		for i := range 100 {
			s.watches = append(s.watches, []watch.Event{modified(strconv.Itoa(2 + i/10))})
		}
		n := 0
		err := s.source().Changes(ctx, "", func(Change) error {
			if n++; n == 30 {
				cancel()
			}
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Changes = %v, want context.Canceled", err)
		}
	})
}

// A long list comes in pages, of which only what matters is held.
func TestALongListComesInPages(t *testing.T) {
	const all, page = 25, 10
	var limits []int64
	s := Source{
		Options: metav1.ListOptions{Limit: page, LabelSelector: "a=b"},
		Only:    func(o runtime.Object) bool { n, _ := strconv.Atoi(o.(*corev1.Pod).Name); return n%2 == 1 },
		List: func(_ context.Context, o metav1.ListOptions) (runtime.Object, error) {
			if o.LabelSelector != "a=b" {
				t.Errorf("page %q is of other objects: %+v", o.Continue, o)
			}
			limits = append(limits, o.Limit)
			from, _ := strconv.Atoi(o.Continue) // "" is 0
			l := &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "7"}}
			for i := from; i < min(from+int(o.Limit), all); i++ {
				l.Items = append(l.Items, corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: strconv.Itoa(i)}})
			}
			if from+int(o.Limit) < all {
				l.Continue = strconv.Itoa(from + int(o.Limit))
			}
			return l, nil
		},
	}
	objs, version, err := s.Snapshot(t.Context())
	if err != nil || version != "7" {
		t.Fatalf("version %q, %v", version, err)
	}
	var got, want []string
	for _, o := range objs {
		got = append(got, o.(*corev1.Pod).Name)
	}
	for i := 1; i < all; i += 2 {
		want = append(want, strconv.Itoa(i))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]int64{page, page, page}, limits); diff != "" {
		t.Errorf("pages (-want +got):\n%s", diff)
	}
}
