package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"time"

	core "k8s.io/api/core/v1"

	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/reach"
	sessions "github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/steer"
	"github.com/bightdev/bight/internal/stream"
)

// version is what this program tells agents of itself.
const version = "bench"

func agentIn(pod *core.Pod) (deploy.Agent, bool) {
	return deploy.AgentIn(&pod.Spec, sessions.ServiceOf(pod))
}

// bridge returns what leads to the wire service without the command around it.
func (w *wire) bridge(ctx context.Context) (*bridge.Bridge, error) {
	cluster, err := kube.Load(kube.Options{})
	if err != nil {
		return nil, err
	}
	client, err := cluster.Typed()
	if err != nil {
		return nil, err
	}
	token, err := (&deploy.Applier{Client: client}).Token(ctx, w.namespace, wireName)
	if err != nil {
		return nil, err
	}
	return &bridge.Bridge{
		Cluster: cluster, Namespace: w.namespace, App: wireName, Selector: sessions.Selector(wireName), Services: []string{wireName},
		Service: sessions.ServiceOf,
		Agent: func(pod *core.Pod) (int, bool) {
			agent, ok := agentIn(pod)
			return agent.Port, ok
		},
		Token: token, Owner: "bench@laptop", Version: version,
		Say: func(string) {}, Log: slog.New(slog.DiscardHandler),
	}, nil
}

// agentLine is a line through the agent of a pod and the multiplexer to it, without
// the network that bight run makes for a command. shut ends it.
func (w *wire) agentLine(ctx context.Context) (l *line, shut func(), err error) {
	b, err := w.bridge(ctx)
	if err != nil {
		return nil, nil, err
	}
	pod := w.pods[0]
	port, _ := b.Agent(&pod)
	client := &stream.Client{
		Dial: func(ctx context.Context) (io.ReadWriteCloser, error) {
			return b.Cluster.DialPod(ctx, w.namespace, pod.Name, port)
		},
		Token: b.Token, Version: version, Log: b.Log,
	}
	sess, err := client.Connect(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("reach the agent of pod %s: %w", pod.Name, err)
	}
	dialer := &reach.Dialer{Open: sess}
	dial := func(ctx context.Context, port int) (net.Conn, error) {
		return dialer.DialContext(ctx, "tcp", net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(port)))
	}
	return &line{dial: dial}, func() { _ = sess.Close() }, nil
}

// inside is an intercept that this process holds itself.
type inside struct {
	began time.Time
	said  chan time.Time
	stop  context.CancelFunc
	ended chan struct{}
	err   error // after ended
}

// startInside leads all requests to a port of this machine.
func startInside(b *bridge.Bridge, port int) *inside {
	ctx, stop := context.WithCancel(context.Background())
	i := &inside{began: time.Now(), said: make(chan time.Time, 1), stop: stop, ended: make(chan struct{})}
	rule := steer.Rule{ID: "bench", Owner: b.Owner, Service: wireName, Port: wireHTTP, Mode: steer.Intercept}
	go func() {
		defer close(i.ended)
		i.err = b.Intercept(ctx, rule, port, func(string) { i.said <- time.Now() })
	}()
	return i
}

func (i *inside) started() time.Time { return i.began }

func (i *inside) inForce(ctx context.Context) (time.Duration, error) {
	select {
	case at := <-i.said:
		return at.Sub(i.began), nil
	case <-i.ended:
		return 0, fmt.Errorf("the intercept has ended: %w", i.err)
	case <-ctx.Done():
		return 0, fmt.Errorf("the intercept is not in force: %w", context.Cause(ctx))
	}
}

func (i *inside) leave(context.Context) (time.Duration, error) {
	began := time.Now()
	i.kill()
	return time.Since(began), i.err
}

func (i *inside) kill() {
	i.stop()
	<-i.ended
}
