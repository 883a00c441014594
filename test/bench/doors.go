package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bightdev/bight/internal/kube"
)

// laptopServer is the process that requests are led to. It remembers when it saw the
// first one from each pod.
type laptopServer struct {
	port   int
	server http.Server
	ended  chan struct{}

	mu    sync.Mutex
	first map[string]time.Time
	more  chan struct{} // closed and renewed when first changes
}

// byLaptop is what it answers; an app's answer is byApp and the pod's name.
const (
	byLaptop = "laptop"
	byApp    = "pod "
)

// podHeader says, in a request, which pod it was made at.
const podHeader = "X-Bench-Pod"

func openLaptop() (*laptopServer, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &laptopServer{port: ln.Addr().(*net.TCPAddr).Port, ended: make(chan struct{}), first: map[string]time.Time{}, more: make(chan struct{})}
	l.server.Handler = l
	go func() { defer close(l.ended); _ = l.server.Serve(ln) }()
	return l, nil
}

func (l *laptopServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now, pod := time.Now(), r.Header.Get(podHeader)
	l.mu.Lock()
	if _, known := l.first[pod]; !known {
		l.first[pod] = now
		close(l.more)
		l.more = make(chan struct{})
	}
	l.mu.Unlock()
	_, _ = io.WriteString(w, byLaptop)
}

func (l *laptopServer) close() {
	_ = l.server.Close()
	<-l.ended
}

func (l *laptopServer) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.first)
}

// seenFrom waits until a request from each pod was seen, and returns when that was.
func (l *laptopServer) seenFrom(ctx context.Context, doors doors) (time.Time, error) {
	for {
		var last time.Time
		missing := ""
		l.mu.Lock()
		more := l.more
		for _, d := range doors {
			at, ok := l.first[d.pod]
			if !ok {
				missing = d.pod
			}
			if at.After(last) {
				last = at
			}
		}
		l.mu.Unlock()
		if missing == "" {
			return last, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return last, fmt.Errorf("no request from pod %s has come here: %w", missing, context.Cause(ctx))
		}
	}
}

// door makes requests at the door of one pod, on a connection that it keeps.
type door struct {
	pod    string
	client *http.Client

	mu    sync.Mutex
	dials int
}

// doors are those of all pods.
type doors []*door

// doors returns the doors in front of the service's HTTP port. They are reached by
// port-forwards, which lead to one pod and not through the Kubernetes Service.
func (w *wire) doors() (doors, error) {
	cluster, err := kube.Load(kube.Options{})
	if err != nil {
		return nil, err
	}
	var all doors
	for _, p := range w.pods {
		agent, ok := agentIn(&p)
		port, has := agent.Doors[wireHTTP]
		if !ok || !has {
			return nil, fmt.Errorf("pod %s has no door for port %d", p.Name, wireHTTP)
		}
		all = append(all, newDoor(p.Name, func(ctx context.Context) (net.Conn, error) {
			return cluster.DialPod(ctx, w.namespace, p.Name, port)
		}))
	}
	return all, nil
}

func newDoor(pod string, dial func(context.Context) (net.Conn, error)) *door {
	d := &door{pod: pod}
	d.client = &http.Client{Transport: &http.Transport{
		MaxConnsPerHost: 1,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d.mu.Lock()
			d.dials++
			d.mu.Unlock()
			return dial(ctx)
		},
	}}
	return d
}

// ask makes one request and returns the answer.
func (d *door) ask(ctx context.Context) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+wireName+"/", nil)
	if err != nil {
		return "", err
	}
	request.Header.Set(podHeader, d.pod)
	response, err := d.client.Do(request)
	if err != nil {
		return "", fmt.Errorf("a request at pod %s: %w", d.pod, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && (response.StatusCode != http.StatusOK || string(body) != byLaptop && !strings.HasPrefix(string(body), byApp)) {
		err = fmt.Errorf("a request at pod %s was answered with %s: %.200s", d.pod, response.Status, body)
	}
	return string(body), err
}

// beside does something while requests are made at all doors.
func (all doors) beside(ctx context.Context, do func(ctx context.Context) error) error {
	asking, stop := context.WithCancel(ctx)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	for _, d := range all {
		g.Go(func() error { return d.askOn(ctx, asking.Done()) })
	}
	g.Go(func() error {
		defer stop()
		return do(ctx)
	})
	return g.Wait()
}

// askOn makes requests until stop is closed. All have to be answered.
func (d *door) askOn(ctx context.Context, stop <-chan struct{}) error {
	tick := time.NewTicker(probeDoor)
	defer tick.Stop()
	for {
		if _, err := d.ask(ctx); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-stop:
			return nil
		}
	}
}

// answeredByApp returns nil when the app answers at all doors.
func (all doors) answeredByApp(ctx context.Context) error {
	for _, d := range all {
		answer, err := d.ask(ctx)
		if err == nil && !strings.HasPrefix(answer, byApp) {
			err = fmt.Errorf("nothing is intercepted, but pod %s answers %q", d.pod, answer)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// kept returns nil when no connection had to be made again.
func (all doors) kept() error {
	for _, d := range all {
		d.mu.Lock()
		dials := d.dials
		d.mu.Unlock()
		if dials != 1 {
			return fmt.Errorf("the connection to pod %s was cut %d times", d.pod, dials-1)
		}
	}
	return nil
}

func (all doors) close() {
	for _, d := range all {
		d.client.CloseIdleConnections()
	}
}
