package controller

import (
	"context"
	"errors"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change/host"
)

const (
	// maxHook is the largest webhook that is read. What it says is asked of the host
	// anyway; a larger one is for the next poll.
	maxHook = 8 << 20
	// hooksAtOnce is how many are read at a time, since whoever sends them is not known
	// before that.
	hooksAtOnce = 4
)

// webhooks hears what outside hosts report. It is safe for concurrent use.
type webhooks struct {
	// find returns what an app's webhooks are checked with, ok for one that has any.
	// It takes as long for an app that does not exist.
	find func(ctx context.Context, app client.ObjectKey) (h receiver, ok bool, err error)
	turn chan struct{}
}

// receiver is an app's end of webhooks.
type receiver struct {
	host       host.Host
	secret     string
	deliveries *host.Deliveries
	kick       func()
}

// webhooks returns the handler of POST /hooks/NAMESPACE/APP.
func (c *Controller) webhooks() *webhooks {
	return &webhooks{find: c.receiver, turn: make(chan struct{}, hooksAtOnce)}
}

// receiver looks an app's webhooks up.
func (c *Controller) receiver(ctx context.Context, key client.ObjectKey) (receiver, bool, error) {
	a := &v1alpha1.App{}
	err := c.client.Get(ctx, key, a)
	f := c.sources.of(key)
	if client.IgnoreNotFound(err) != nil {
		return receiver{}, false, err
	}
	if err != nil || a.Spec.Source == nil || a.Spec.Source.Secret == "" || f == nil {
		// The same question as for one that is there, which tells by its time of nothing.
		err := c.live.Get(ctx, client.ObjectKey{Namespace: key.Namespace, Name: "bight-no-such-secret"}, &corev1.Secret{})
		return receiver{}, false, client.IgnoreNotFound(err)
	}
	conn, err := c.connection(ctx, a)
	if _, misconfigured := errors.AsType[*sourceError](err); misconfigured || err == nil && conn.host == nil {
		return receiver{}, false, nil
	}
	if err != nil {
		return receiver{}, false, err
	}
	return receiver{host: conn.host, secret: conn.webhook, deliveries: &f.deliveries, kick: f.kick}, conn.webhook != "", nil
}

// ServeHTTP answers one webhook. Who can't sign is told the same of every app, whether
// it exists or not.
func (h *webhooks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-r.Context().Done():
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxHook)
	to, ok, err := h.find(r.Context(), client.ObjectKey{Namespace: r.PathValue("namespace"), Name: r.PathValue("app")})
	if err != nil {
		http.Error(w, "the webhook can't be checked now: send it again", http.StatusServiceUnavailable)
		return
	}
	if !ok {
		to = receiver{host: &host.Gitea{}} // whose check fails, with no secret
	}
	e, err := to.host.Parse(r, to.secret)
	tooLarge := &http.MaxBytesError{}
	switch {
	case errors.As(err, &tooLarge), errors.Is(err, host.ErrTooLarge):
		http.Error(w, "the webhook is too large: the app is looked at without it, at the next poll", http.StatusRequestEntityTooLarge)
		return
	case errors.Is(err, host.ErrForged):
		http.Error(w, host.ErrForged.Error(), http.StatusUnauthorized)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if err := to.deliveries.Check(e); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	if e.Kind != host.Other {
		to.kick()
	}
	w.WriteHeader(http.StatusAccepted)
}
