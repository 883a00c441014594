package session

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// How long a session that vanished keeps others out, and how often a living one
// says that it lives.
const (
	leaseDuration = 30 * time.Second
	leaseRenewal  = 10 * time.Second
)

// lease is a session's claim to an environment: two sessions would fight over
// the pods' files.
type lease struct {
	client    kubernetes.Interface
	namespace string
	name      string
	holder    holder
}

// holder names a session.
type holder struct {
	user, host string
	pid        int
}

func (h holder) String() string { return fmt.Sprintf("%s@%s:%d", h.user, h.host, h.pid) }

func parseHolder(text string) (holder, bool) {
	user, rest, ok := strings.Cut(text, "@")
	if !ok {
		return holder{}, false
	}
	colon := strings.LastIndexByte(rest, ':')
	if colon < 0 {
		return holder{}, false
	}
	pid, err := strconv.Atoi(rest[colon+1:])
	return holder{user, rest[:colon], pid}, err == nil
}

func leaseName(appName string) string { return "bight-session-" + appName }

// publish says on which local port the URLs are; bight status reads it.
func (l *lease) publish(ctx context.Context, port int) {
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:"%d"}}}`, portAnnotation, port)
	_, _ = l.client.CoordinationV1().Leases(l.namespace).Patch(ctx, l.name, mergePatch, []byte(patch), meta.PatchOptions{})
}

// BusyError tells that another session has the environment.
type BusyError struct {
	App, Namespace, Holder string
	Since                  time.Time
}

func (e *BusyError) Error() string {
	who := e.Holder
	if h, ok := parseHolder(e.Holder); ok {
		who = fmt.Sprintf("%s on %s (process %d)", h.user, h.host, h.pid)
	}
	return fmt.Sprintf("%s in namespace %s is followed by the session of %s since %s: end that one, or use a namespace of your own with -n",
		e.App, e.Namespace, who, e.Since.Format("15:04:05"))
}

// claim takes the environment, or says who has it.
func (s *Session) claim(ctx context.Context) (*lease, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	l := &lease{
		client: s.applier.Client, namespace: s.environment, name: leaseName(s.app.Name),
		holder: holder{user: s.User, host: host, pid: os.Getpid()},
	}
	if err := l.take(ctx, s.app.Name); err != nil {
		return nil, s.Cluster.Explain(err)
	}
	return l, nil
}

func (l *lease) take(ctx context.Context, appName string) error {
	leases := l.client.CoordinationV1().Leases(l.namespace)
	now := meta.NowMicro()
	seconds, me := int32(leaseDuration/time.Second), l.holder.String()
	wanted := coordination.LeaseSpec{HolderIdentity: &me, AcquireTime: &now, RenewTime: &now, LeaseDurationSeconds: &seconds}
	_, err := leases.Create(ctx, &coordination.Lease{
		ObjectMeta: meta.ObjectMeta{Name: l.name, Labels: map[string]string{"app.kubernetes.io/managed-by": "bight"}},
		Spec:       wanted,
	}, meta.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	have, err := leases.Get(ctx, l.name, meta.GetOptions{})
	if err != nil {
		return err
	}
	if !leaseFree(have.Spec, l.holder, now.Time, processLives) {
		busy := &BusyError{App: appName, Namespace: l.namespace, Holder: *have.Spec.HolderIdentity}
		if have.Spec.AcquireTime != nil {
			busy.Since = have.Spec.AcquireTime.Time.Local()
		}
		return busy
	}
	have.Spec = wanted
	_, err = leases.Update(ctx, have, meta.UpdateOptions{}) // a conflict means that another was faster
	return err
}

// leaseFree reports whether me may take a lease over: it has no holder, its holder
// has not renewed it in time, or was a process of this machine that is gone.
func leaseFree(spec coordination.LeaseSpec, me holder, now time.Time, lives func(pid int) bool) bool {
	if spec.HolderIdentity == nil || *spec.HolderIdentity == "" || spec.RenewTime == nil || spec.LeaseDurationSeconds == nil {
		return true
	}
	if now.After(spec.RenewTime.Add(time.Duration(*spec.LeaseDurationSeconds) * time.Second)) {
		return true
	}
	h, ok := parseHolder(*spec.HolderIdentity)
	return ok && h.host == me.host && h.user == me.user && (h.pid == me.pid || !lives(h.pid))
}

// keep renews the lease until ctx ends and then gives it back. A renewal that
// fails is tried again: a lost network is no reason to end a session.
func (l *lease) keep(ctx context.Context) error {
	tick := time.NewTicker(leaseRenewal)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			patch := fmt.Sprintf(`{"spec":{"renewTime":%q}}`, time.Now().UTC().Format("2006-01-02T15:04:05.000000Z07:00"))
			_, _ = l.client.CoordinationV1().Leases(l.namespace).Patch(ctx, l.name, mergePatch, []byte(patch), meta.PatchOptions{})
		case <-ctx.Done():
			// The context has ended, so giving back gets one of its own.
			back, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			_ = l.client.CoordinationV1().Leases(l.namespace).Delete(back, l.name, meta.DeleteOptions{})
			return nil
		}
	}
}
