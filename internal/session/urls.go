package session

import (
	"cmp"
	"context"
	"net"
	"reflect"
	"strconv"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/forward"
	"github.com/bightdev/bight/internal/ui/term"
)

// preferredPort is the local port of the URLs, when it is free.
const preferredPort = 8000

// door is where the app is reached from this machine. Its methods may be called
// on nil, which is a session without one, and from many goroutines, but show and
// update from one at a time.
type door struct {
	session *Session
	lease   *lease
	proxy   *forward.Proxy
	shown   []term.URL
}

// open opens the local port.
func (d *door) open() error {
	s := d.session
	proxy := &forward.Proxy{
		Listen:   "127.0.0.1:" + strconv.Itoa(cmp.Or(s.Port, preferredPort)),
		Required: s.Port != 0,
		App:      s.plan().Name,
		Reason:   s.reason,
		Log:      s.Log,
	}
	notes, err := proxy.Open()
	if err != nil {
		return err
	}
	d.proxy = proxy
	d.note(notes)
	d.update(s.plan())
	return nil
}

// update makes the URLs those of the app as it is planned now.
func (d *door) update(a *app.App) { d.note(d.proxy.Update(d.session.routes(a))) }

func (d *door) note(notes []string) {
	for _, note := range notes {
		d.session.Printer.Note("", note)
	}
}

// show prints the URLs and tells bight status of them, unless that was done.
func (d *door) show(ctx context.Context) error {
	var urls []term.URL
	byService := map[string]string{}
	for _, u := range d.proxy.URLs() {
		urls = append(urls, term.URL{Service: u.Service, URL: u.URL, Note: urlNote(u)})
		if byService[u.Service] == "" {
			byService[u.Service] = u.URL
		}
	}
	if reflect.DeepEqual(urls, d.shown) {
		return nil
	}
	d.shown = urls
	d.session.Printer.URLs(urls)
	return d.lease.publish(ctx, byService)
}

// wake tells requests that wait that a service may answer now.
func (d *door) wake(service string) {
	if d != nil && d.proxy != nil {
		d.proxy.Ready(service)
	}
}

// renew lets a service's next requests use new connections, for the process or the
// pod at the end of the present ones goes away.
func (d *door) renew(service string) {
	if d != nil && d.proxy != nil {
		d.proxy.Invalidate(service)
	}
}

// urlNote says what a URL is where its looks don't.
func urlNote(u forward.URL) string {
	if u.Kind == app.HTTP {
		return ""
	}
	return u.Kind
}

// routes says where the services' ports are.
func (s *Session) routes(a *app.App) []forward.Route {
	var routes []forward.Route
	for _, service := range a.Services {
		r := forward.Route{Service: service.Name, Environment: s.environment}
		for _, p := range service.Ports {
			r.Ports = append(r.Ports, forward.Port{Name: p.Name, Number: p.Number, Protocol: p.Protocol})
		}
		r.Dial = func(ctx context.Context, port int) (net.Conn, error) { return s.pods.dial(ctx, service.Name, port) }
		routes = append(routes, r)
	}
	return routes
}

// reason says why a service can't answer, "" when it can.
func (s *Session) reason(service string) string {
	if why := s.pods.reason(service); why != "" {
		return cmp.Or(s.failure(service), why)
	}
	return ""
}

// reason says why no pod of a service can answer, "" when one can.
func (p *pods) reason(service string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	why, best := "it has no pod yet", -1
	for _, pod := range p.all {
		if pod.service != service {
			continue
		}
		state, text := describe(pod)
		if text == "" {
			return ""
		}
		if state > best {
			why, best = text, state
		}
	}
	return why
}

// describe says why a pod can't answer, "" when it can, and how far it has come.
func describe(pod *pod) (state int, why string) {
	switch {
	case pod.target == nil:
		return 0, "pod " + pod.name + " is starting"
	case pod.process.ends > 0 && !pod.process.isUp:
		return 2, "its process ends again and again; bight logs " + pod.service + " shows what it says"
	case !pod.ready:
		return 1, "pod " + pod.name + " is not ready yet"
	}
	return 3, ""
}
