package session

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	leases "k8s.io/client-go/kubernetes/typed/coordination/v1"
)

// How long a session that vanished keeps others out, how often a living one says
// that it lives, and how long each attempt of it may take.
const (
	leaseDuration = 30 * time.Second
	leaseRenewal  = 10 * time.Second
	leaseAttempt  = 5 * time.Second
)

// lease is a session's claim to an environment: two sessions would fight over
// the pods' files.
type lease struct {
	client  leases.LeaseInterface
	app     string
	holder  holder
	ignored bool // the user may not have leases: there is no claim

	mu   sync.Mutex
	have *coordination.Lease // as the cluster has confirmed it last
}

// holder names a session.
type holder struct {
	user, host string
	pid        int
}

func (h holder) String() string { return fmt.Sprintf("%s@%s:%d", h.user, h.host, h.pid) }

func parseHolder(text string) (holder, bool) {
	at := strings.LastIndexByte(text, '@') // a user's name may have one, a host's may not
	colon := strings.LastIndexByte(text, ':')
	if at < 0 || colon < at {
		return holder{}, false
	}
	pid, err := strconv.Atoi(text[colon+1:])
	return holder{text[:at], text[at+1 : colon], pid}, err == nil
}

// me returns this session as others see it.
func (s *Session) me() holder {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return holder{user: s.User, host: host, pid: os.Getpid()}
}

func leaseName(appName string) string { return "bight-session-" + appName }

// urlsAnnotation is where a session says which URLs it has open, by service.
const urlsAnnotation = "bight.dev/urls"

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

// claim takes the environment, or says who has it. A user who may not have leases
// is told what that means, and goes on without.
func (s *Session) claim(ctx context.Context) (*lease, error) {
	appName := s.plan().Name
	l := &lease{client: s.applier.Client.CoordinationV1().Leases(s.environment), app: appName, holder: s.me()}
	err := l.take(ctx, s.environment)
	if apierrors.IsForbidden(err) {
		l.ignored = true
		s.Printer.Warn("", "another session in namespace "+s.environment+" would not be noticed, and two of them send different files to the same pods",
			"ask for the rights to get, create, update and delete leases.coordination.k8s.io there")
		return l, nil
	}
	if err != nil {
		return nil, s.Cluster.Explain(err)
	}
	return l, nil
}

// take makes the lease, or takes over one that is free.
func (l *lease) take(ctx context.Context, namespace string) error {
	now := meta.NowMicro()
	seconds, me := int32(leaseDuration/time.Second), l.holder.String()
	wanted := &coordination.Lease{
		ObjectMeta: meta.ObjectMeta{Name: leaseName(l.app), Labels: map[string]string{"app.kubernetes.io/managed-by": "bight"}},
		Spec:       coordination.LeaseSpec{HolderIdentity: &me, AcquireTime: &now, RenewTime: &now, LeaseDurationSeconds: &seconds},
	}
	made, err := l.client.Create(ctx, wanted, meta.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		var have *coordination.Lease
		if have, err = l.client.Get(ctx, wanted.Name, meta.GetOptions{}); err != nil {
			return err
		}
		if !leaseFree(have.Spec, l.holder, now.Time, ProcessLives) {
			return busy(l.app, namespace, have)
		}
		wanted.ResourceVersion = have.ResourceVersion
		made, err = l.client.Update(ctx, wanted, meta.UpdateOptions{})
		if apierrors.IsConflict(err) { // another was faster
			if have, err = l.client.Get(ctx, wanted.Name, meta.GetOptions{}); err == nil {
				err = busy(l.app, namespace, have)
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.have = made
	return err
}

func busy(appName, namespace string, have *coordination.Lease) error {
	e := &BusyError{App: appName, Namespace: namespace}
	if have.Spec.HolderIdentity != nil {
		e.Holder = *have.Spec.HolderIdentity
	}
	if have.Spec.AcquireTime != nil {
		e.Since = have.Spec.AcquireTime.Local()
	}
	return e
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
// fails is tried again: a lost network is no reason to end a session, but another
// that has taken its place meanwhile is.
func (l *lease) keep(ctx context.Context) error {
	if l.ignored {
		return nil
	}
	tick := time.NewTicker(leaseRenewal)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := l.renew(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			l.giveBack(ctx)
			return nil
		}
	}
}

// renew says that the session lives. The only errors that it returns are that the
// session has lost its claim.
func (l *lease) renew(ctx context.Context) error {
	return l.change(ctx, func(have *coordination.Lease) {
		now := meta.NowMicro()
		have.Spec.RenewTime = &now
	})
}

// publish says which URLs are open; bight status reads it.
func (l *lease) publish(ctx context.Context, urls map[string]string) error {
	if l.ignored {
		return nil
	}
	text, err := json.Marshal(urls)
	if err != nil {
		return err
	}
	return l.change(ctx, func(have *coordination.Lease) {
		if have.Annotations == nil {
			have.Annotations = map[string]string{}
		}
		have.Annotations[urlsAnnotation] = string(text)
	})
}

// change changes the lease as long as it is ours. Its errors are that it is not;
// what else goes wrong is tried again with the next renewal.
func (l *lease) change(ctx context.Context, edit func(*coordination.Lease)) error {
	ctx, cancel := context.WithTimeout(ctx, leaseAttempt)
	defer cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	next := l.have.DeepCopy()
	edit(next)
	made, err := l.client.Update(ctx, next, meta.UpdateOptions{})
	if apierrors.IsConflict(err) {
		var have *coordination.Lease
		have, err = l.client.Get(ctx, next.Name, meta.GetOptions{})
		if err == nil {
			if have.Spec.HolderIdentity == nil || *have.Spec.HolderIdentity != l.holder.String() {
				return busy(l.app, have.Namespace, have)
			}
			edit(have)
			made, err = l.client.Update(ctx, have, meta.UpdateOptions{})
		}
	}
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("this session's claim to namespace %s is gone, as after bight down: the session ends; bight up deploys %s again", next.Namespace, l.app)
	case err == nil:
		l.have = made
	}
	return nil
}

// giveBack removes the lease if it is still ours. It is called when the session's
// context has ended, so it takes a moment of its own.
func (l *lease) giveBack(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ignored || l.have == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	have, err := l.client.Get(ctx, l.have.Name, meta.GetOptions{})
	if err == nil && have.UID == l.have.UID && have.Spec.HolderIdentity != nil && *have.Spec.HolderIdentity == l.holder.String() {
		// An error leaves a lease that runs out, and whose process is gone.
		_ = l.client.Delete(ctx, have.Name, meta.DeleteOptions{Preconditions: &meta.Preconditions{UID: &have.UID, ResourceVersion: &have.ResourceVersion}})
	}
}
