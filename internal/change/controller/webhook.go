package controller

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change/host"
)

const (
	// maxHook is the largest webhook that is read. What it says is asked of the host
	// anyway; a larger one is for the next poll.
	maxHook = 8 << 20
	// hooksAtOnce is how many are checked at a time, since whoever sends them is not known
	// before that.
	hooksAtOnce = 4
	// maxHooks is how many bytes of webhooks are held at a time.
	maxHooks = hooksAtOnce * maxHook
	// hookTime is how long the sender of one may take.
	hookTime = 10 * time.Second
)

// webhooks hears what outside hosts report. It is safe for concurrent use.
type webhooks struct {
	// find returns what an app's webhooks are checked with, ok for one that has any.
	// It takes as long for an app that does not exist.
	find func(ctx context.Context, app client.ObjectKey) (h receiver, ok bool, err error)
	turn chan struct{}
	held atomic.Int64 // bytes that were read and not answered
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
	// It is read before its turn, or four connections on which nothing comes would hold up all others.
	// The limit of all together is of bytes that have come, since announcing them costs nothing.
	body, err := h.read(w, r)
	defer h.held.Add(-int64(len(body)))
	tooLarge := &http.MaxBytesError{}
	switch {
	case errors.As(err, &tooLarge):
		http.Error(w, "the webhook is too large: the app is looked at without it, at the next poll", http.StatusRequestEntityTooLarge)
		return
	case errors.Is(err, errManyHooks):
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	case errors.Is(err, os.ErrDeadlineExceeded):
		http.Error(w, "the webhook did not come within "+hookTime.String(), http.StatusRequestTimeout)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-r.Context().Done():
		return
	}
	h.answer(w, r)
}

var errManyHooks = errors.New("more webhooks come than can be read: send it again")

// read reads a webhook's body. What it returns is counted as held, also with an error.
func (h *webhooks) read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Now().Add(hookTime)); err != nil {
		return nil, err
	}
	from := http.MaxBytesReader(w, r.Body, maxHook)
	var body bytes.Buffer
	for {
		n, err := io.CopyN(&body, from, 32<<10)
		if h.held.Add(n) > maxHooks {
			return body.Bytes(), errManyHooks
		}
		if errors.Is(err, io.EOF) {
			return body.Bytes(), control.SetReadDeadline(time.Time{}) // it may wait for its turn
		}
		if err != nil {
			return body.Bytes(), err
		}
	}
}

// answer answers a webhook whose body is here.
func (h *webhooks) answer(w http.ResponseWriter, r *http.Request) {
	to, ok, err := h.find(r.Context(), client.ObjectKey{Namespace: r.PathValue("namespace"), Name: r.PathValue("app")})
	if err != nil {
		http.Error(w, "the webhook can't be checked now: send it again", http.StatusServiceUnavailable)
		return
	}
	if !ok {
		to = receiver{host: &host.Gitea{}} // whose check fails, with no secret
	}
	e, err := to.host.Parse(r, to.secret)
	switch {
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
