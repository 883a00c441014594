package controller

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sync/errgroup"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/probe"
)

// ownWords are the addresses of pods that have said themselves that they serve, by service.
type ownWords map[string][]string

// answered waits until the services of a preview serve, and asks the new pods that itself:
// by what kubelet asks them, at every port, and every few milliseconds. Kubelet asks as
// the process starts, which is mostly too soon, and then a second later.
func (e *environments) answered(ctx context.Context, a *app.App, namespace string) (ownWords, error) {
	var mu sync.Mutex
	said := ownWords{}
	w := &deploy.Waiter{Client: e.typed, Log: e.log, Ask: func(ctx context.Context, s *app.Service, p *corev1.Pod) error {
		if err := askPod(ctx, s, p); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		said[s.Name] = append(said[s.Name], p.Status.PodIP)
		return nil
	}}
	err := w.Wait(ctx, deploy.Rollout{App: a, Namespace: namespace, Start: time.Now()})
	return said, err
}

// askPod returns nil when a pod answers by its service's health and at each of its ports.
func askPod(ctx context.Context, s *app.Service, p *corev1.Pod) error {
	hosts := []string{p.Status.PodIP}
	var asks []*probe.Probe
	if h := s.Health; h != nil {
		asks = append(asks, &probe.Probe{Kind: h.Kind, Port: h.Port, Path: "/" + strings.TrimPrefix(h.Path, "/"), Hosts: hosts})
	}
	for _, port := range s.Ports {
		if port.Protocol != app.UDP {
			asks = append(asks, &probe.Probe{Kind: app.HealthTCP, Port: port.Number, Hosts: hosts})
		}
	}
	for _, ask := range asks {
		if err := ask.Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// smoke asks every service of an environment, by the name and port that its links and
// its health say, whether somebody is there. A service whose new pods have said that
// themselves has to lead to them; it does when kubelet has heard it, too, and leads to
// the pods before until then.
func (e *environments) smoke(ctx context.Context, a *app.App, namespace string, said ownWords) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for _, s := range a.Services {
		for _, p := range s.Ports {
			if p.Protocol == app.UDP {
				continue
			}
			if pods := said[s.Name]; len(pods) > 0 {
				g.Go(func() error { return e.leads(ctx, s, p, namespace, pods) })
			} else {
				g.Go(func() error { return ask(ctx, s, p, namespace) })
			}
		}
		for _, l := range s.Links {
			to := a.Service(l.To)
			if to == nil || !slices.ContainsFunc(to.Ports, func(p app.Port) bool { return p.Number == l.Port }) {
				return fmt.Errorf("service %s reaches for %s at port %d (%s), where nobody listens", s.Name, l.To, l.Port, l.From.Place())
			}
		}
	}
	return g.Wait()
}

// patient is how long a service that is said to be ready may take to answer: what
// leads to it is told of it a little later.
const patient = 30 * time.Second

func ask(ctx context.Context, s *app.Service, p app.Port, namespace string) error {
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	host := net.JoinHostPort(s.Name+"."+namespace+".svc", strconv.Itoa(p.Number))
	var last error
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		// The first tries are short: one that was led to a pod which has just gone would
		// wait for it to the end.
		try, stop := context.WithTimeout(ctx, 10*pause)
		err := askOnce(try, s, p, host)
		stop()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("service %s does not answer at %s: %w", s.Name, host, last)
		case <-time.After(pause):
		}
	}
}

// leads waits until a service has one of these pods behind its port, whether it is
// said to be ready or not.
func (e *environments) leads(ctx context.Context, s *app.Service, p app.Port, namespace string, pods []string) error {
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		known, err := e.typed.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + s.Name})
		if err == nil && behind(known.Items, int32(p.Number), pods) {
			return nil
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("no EndpointSlice has %s with port %d", strings.Join(pods, " or "), p.Number)
			}
			return fmt.Errorf("service %s does not lead to its pods: %w", s.Name, err)
		case <-time.After(pause):
		}
	}
}

// behind reports whether slices have one of these addresses with a port.
func behind(all []discoveryv1.EndpointSlice, port int32, addresses []string) bool {
	return slices.ContainsFunc(all, func(s discoveryv1.EndpointSlice) bool {
		return slices.ContainsFunc(s.Ports, func(p discoveryv1.EndpointPort) bool { return p.Port != nil && *p.Port == port }) &&
			slices.ContainsFunc(s.Endpoints, func(ep discoveryv1.Endpoint) bool {
				return slices.ContainsFunc(ep.Addresses, func(a string) bool { return slices.Contains(addresses, a) })
			})
	})
}

func askOnce(ctx context.Context, s *app.Service, p app.Port, host string) error {
	if s.Health == nil || s.Health.Kind != app.HealthHTTP || s.Health.Port != p.Number {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", host)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+s.Health.Path, nil)
	if err != nil {
		return err
	}
	t := &http.Transport{DisableKeepAlives: true}
	answer, err := t.RoundTrip(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 400 {
		return fmt.Errorf("GET %s: %s", s.Health.Path, answer.Status)
	}
	return nil
}
