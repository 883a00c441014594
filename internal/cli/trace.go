package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/steer"
	"github.com/bightdev/bight/internal/ui/term"
)

// runTrace follows a header through the app in dir, for bight doctor --trace.
func (p *Program) runTrace(ctx context.Context, t *target, dir, url, header string, asJSON bool) error {
	printer := p.printer(asJSON, nil)
	defer printer.Close()
	b, a, err := p.bridge(ctx, t, dir, printer)
	if err != nil {
		return err
	}
	probe, err := newProbe(a, url, header)
	if err != nil {
		return err
	}
	printer.Note("", fmt.Sprintf("sending requests for %s with %s: %s, and looking for it in every service", probe.URL, probe.Name, probe.Value))
	found, err := b.Trace(ctx, probe)
	switch {
	case ctx.Err() != nil:
		return interrupted(ctx, nil)
	case errors.As(err, new(*bridge.UnknownServiceError)):
		return codedError{code: exitNotFound, err: err}
	case err != nil:
		return err
	}
	if err := printer.Data(found, traceTable(found)); err != nil {
		return err
	}
	if status := slices.Max(found.Answers); status >= 400 {
		printer.Warn("", fmt.Sprintf("%s answers %d: what it calls when all is well was not seen", found.URL, status), "name a URL that works")
	}
	if len(found.Drops) == 0 {
		printer.Note("", everywhere(found))
		return nil
	}
	for _, d := range found.Drops[1:] {
		printer.Note("", d.String())
	}
	return codedError{code: exitFailed, err: fmt.Errorf("%s; take the header from the incoming request's context into each request that it makes%s", found.Drops[0], helper(probe.Name))}
}

// helper says who can do that.
func helper(name string) string {
	if name == "baggage" {
		return " (OpenTelemetry's baggage propagator does that)"
	}
	return ""
}

// everywhere says that nobody drops the header, and how far that goes.
func everywhere(found *bridge.Trace) string {
	var had []string
	for _, s := range found.Services {
		if s.With > 0 {
			had = append(had, s.Service)
		}
	}
	if len(had) == 1 {
		return fmt.Sprintf("%s has the header, and called nobody else for %s", had[0], found.URL)
	}
	return fmt.Sprintf("nobody drops it: %s have the header", strings.Join(had, ", "))
}

// newProbe is what is sent to an app. url is a URL, a service with or without a path,
// or a path of the app's first service.
func newProbe(a *app.App, url, header string) (bridge.Probe, error) {
	probe := bridge.Probe{Name: "baggage", Value: "bight-trace=" + strings.ToLower(rand.Text()[:12])}
	if header != "" {
		h, err := steer.ParseHeader(header)
		if err != nil {
			return probe, usageError("%w", err)
		}
		if h.Prefix {
			return probe, usageError("--header %s: it is sent, so it needs a whole value", header)
		}
		probe.Name, probe.Value = h.Name, h.Value
	}
	linked := map[string]bool{}
	for _, s := range a.Services {
		for _, port := range s.Ports {
			if port.Protocol == app.HTTP || port.Protocol == app.GRPC {
				probe.Doors = append(probe.Doors, bridge.Door{Service: s.Name, Port: port.Number})
			}
		}
		for _, l := range s.Links {
			linked[l.To] = true
			by := l.Env
			if by == "" && l.Flag != "" {
				by = "-" + l.Flag
			}
			probe.Links = append(probe.Links, bridge.Link{From: s.Name, To: l.To, By: by, File: l.From.File, Line: l.From.Line})
		}
	}
	switch {
	case strings.HasPrefix(url, "/"):
		first := entrance(a, linked)
		if first == "" {
			return probe, usageError("--trace %s: the app has no service with HTTP that it could be a path of", url)
		}
		url = "http://" + first + url
	case !strings.Contains(url, "://"):
		if url = "http://" + url; !strings.Contains(url[len("http://"):], "/") {
			url += "/"
		}
	}
	probe.URL = url
	return probe, nil
}

// entrance is the service where an app's requests come in: one with HTTP that calls
// others and that no other calls, as far as is known.
func entrance(a *app.App, linked map[string]bool) string {
	best, most := "", -1
	for _, s := range a.Services {
		if main := s.Port(); main == nil || main.Protocol != app.HTTP {
			continue
		}
		n := len(s.Links)
		if !linked[s.Name] {
			n += 1000
		}
		if n > most {
			best, most = s.Name, n
		}
	}
	return best
}

func traceTable(found *bridge.Trace) *term.Table {
	table := &term.Table{Head: []string{"SERVICE", "HEADER", "WITH", "WITHOUT", "CALLS"}, Services: true}
	for _, s := range found.Services {
		state := map[bridge.Reached]string{
			bridge.HasKey: "✓ has it", bridge.DropsKey: "✗ drops it", bridge.WithoutKey: "! without it",
			bridge.NotReached: "not reached", bridge.NotWatched: "! not watched",
		}[s.State]
		table.Rows = append(table.Rows, []string{s.Service, state, strconv.Itoa(s.With), strconv.Itoa(s.Without), strings.Join(s.Calls, ", ")})
	}
	return table
}
