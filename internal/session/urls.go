package session

import (
	"bufio"
	"cmp"
	"context"
	"net"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/forward"
	"github.com/bightdev/bight/internal/ui/term"
)

// routes says where the services' ports are.
func (s *Session) routes() []forward.Route {
	var routes []forward.Route
	for _, service := range s.app.Services {
		r := forward.Route{Service: service.Name, Environment: s.environment}
		for _, p := range service.Ports {
			r.Ports = append(r.Ports, forward.Port{Name: p.Name, Number: p.Number, Protocol: p.Protocol})
		}
		r.Dial = func(ctx context.Context, port int) (net.Conn, error) { return s.pods.dial(ctx, service.Name, port) }
		routes = append(routes, r)
	}
	return routes
}

// openProxy opens the local port and prints the URLs.
func (s *Session) openProxy(ctx context.Context, l *lease) error {
	s.proxy = &forward.Proxy{
		Listen:   "127.0.0.1:" + strconv.Itoa(cmp.Or(s.Port, preferredPort)),
		Required: s.Port != 0,
		App:      s.app.Name,
		Reason:   s.reason,
		Log:      s.Log,
	}
	notes, err := s.proxy.Open()
	if err != nil {
		return err
	}
	notes = append(notes, s.proxy.Update(s.routes())...)
	for _, note := range notes {
		s.Printer.Note("", note)
	}
	l.publish(ctx, s.proxy.Port())
	s.printURLs()
	return nil
}

// preferredPort is the local port of the URLs, when it is free.
const preferredPort = 8000

func (s *Session) printURLs() {
	var urls []term.URL
	for _, u := range s.proxy.URLs() {
		urls = append(urls, term.URL{Service: u.Service, URL: u.URL, Note: urlNote(u)})
	}
	s.Printer.URLs(urls)
}

// urlNote says what a URL is where its looks don't.
func urlNote(u forward.URL) string {
	if u.Kind == app.HTTP {
		return ""
	}
	return u.Kind
}

// reason says why a service can't answer, "" when it can.
func (s *Session) reason(service string) string {
	s.mu.Lock()
	failure := s.failures[service]
	s.mu.Unlock()
	if failure != "" {
		return failure
	}
	return s.pods.reason(service)
}

// reason says why no pod of a service can answer, "" when one can.
func (p *pods) reason(service string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	why := "it has no pod yet"
	for _, pod := range p.all {
		switch {
		case pod.service != service:
		case pod.target == nil:
			why = "pod " + pod.name + " is starting"
		case pod.exits > 0 && !pod.ready:
			why = "its process ends again and again; bight logs " + service + " shows what it says"
		case !pod.ready:
			why = "pod " + pod.name + " is not ready yet"
		default:
			return ""
		}
	}
	return why
}

// wake tells the proxy that a service may answer now.
func (s *Session) wake(service string) {
	if s.proxy != nil {
		s.proxy.Ready(service)
	}
}

// logs prints what the services' containers write, from now on, until ctx ends.
func (p *pods) logs(ctx context.Context) error {
	var g errgroup.Group
	defer g.Wait()
	following := map[string]bool{}
	since := meta.Now()
	for {
		p.mu.Lock()
		changed := p.changed
		for name, pod := range p.all {
			if pod.target != nil && !following[name] {
				following[name] = true
				service := pod.service
				g.Go(func() error { p.log(ctx, service, name, since); return nil })
			}
		}
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// log prints one pod's output until the pod is gone or ctx ends.
func (p *pods) log(ctx context.Context, service, name string, since meta.Time) {
	pods := p.session.applier.Client.CoreV1().Pods(p.session.environment)
	for ctx.Err() == nil {
		stream, err := pods.GetLogs(name, &core.PodLogOptions{Follow: true, SinceTime: &since}).Stream(ctx)
		if err == nil {
			lines := bufio.NewScanner(stream)
			lines.Buffer(nil, 1<<20)
			for lines.Scan() {
				p.session.Printer.Log(service, lines.Text())
			}
			stream.Close()
		}
		since = meta.Now()
		p.mu.Lock()
		gone := p.all[name] == nil
		p.mu.Unlock()
		if gone {
			return
		}
		select {
		case <-time.After(500 * time.Millisecond): // the container is started again
		case <-ctx.Done():
		}
	}
}
