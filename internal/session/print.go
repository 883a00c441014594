package session

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/ui/term"
)

const mergePatch = types.MergePatchType

// printPlan says what was found, one line a service.
func (s *Session) printPlan() {
	for _, service := range s.app.Services {
		s.Printer.Event(term.Event{Type: term.Plan, Service: service.Name, Text: summary(service), Why: place(service.Source.From)})
	}
}

// summary says what a service is, in one line.
func summary(s *app.Service) string {
	var parts []string
	switch s.Build.Kind {
	case app.BuildGo:
		parts = append(parts, "Go "+s.Build.Package)
	case app.BuildStatic:
		parts = append(parts, "static site "+s.Build.Root)
	}
	for _, p := range s.Ports {
		parts = append(parts, fmt.Sprintf("%s :%d", p.Protocol, p.Number))
	}
	var to []string
	for _, l := range s.Links {
		if !slices.Contains(to, l.To) {
			to = append(to, l.To)
		}
	}
	text := strings.Join(parts, ", ")
	if len(to) > 0 {
		text += " → " + strings.Join(to, ", ")
	}
	return text
}

func place(f app.From) string {
	if f.Line == 0 {
		return f.File
	}
	return fmt.Sprintf("%s:%d", f.File, f.Line)
}

// printApplied says what an apply changed.
func (s *Session) printApplied(r *deploy.Result, took time.Duration) {
	counts := map[deploy.Action]int{}
	for _, d := range r.Objects {
		counts[d.Action]++
	}
	var parts []string
	for _, action := range []deploy.Action{deploy.Created, deploy.Configured, deploy.Removed, deploy.Kept} {
		if n := counts[action]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, action))
		}
	}
	text := "nothing to change in the cluster"
	if len(parts) > 0 {
		text = "applied: " + strings.Join(parts, ", ")
	}
	s.Printer.Event(term.Event{Type: term.Deploy, Text: text, Took: took})
}

// printProgress says how a rollout goes on.
func (s *Session) printProgress(p deploy.Progress) {
	switch p.Phase {
	case deploy.PhaseServing:
		s.Printer.Event(term.Event{Type: term.Ready, Service: p.Service, Text: "ready", Took: p.Since})
	case deploy.PhaseFailed:
		s.Printer.Fail(p.Service, fmt.Errorf("%s", firstLine(p.Failure.Error())), rest(p.Failure.Error()), "")
	}
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

func rest(text string) string {
	_, more, _ := strings.Cut(text, "\n")
	return more
}

// shape is what of an app decides how it is deployed: everything but where each
// fact was read, which changes with every line that is added above it.
func shape(a *app.App) app.App {
	b := app.App{Name: a.Name}
	for _, service := range a.Services {
		c := *service
		c.Source.From, c.Build.From = app.From{}, app.From{}
		c.Build.Assets = slices.Clone(c.Build.Assets)
		for i := range c.Build.Assets {
			c.Build.Assets[i].From = app.From{}
		}
		c.Ports = slices.Clone(c.Ports)
		for i := range c.Ports {
			c.Ports[i].From = app.From{}
		}
		c.Env = slices.DeleteFunc(slices.Clone(c.Env), func(e app.EnvVar) bool { return !e.Set })
		for i := range c.Env {
			c.Env[i].From = app.From{}
		}
		c.Links = slices.Clone(c.Links)
		for i := range c.Links {
			c.Links[i].From = app.From{}
		}
		c.Volumes = slices.Clone(c.Volumes)
		for i := range c.Volumes {
			c.Volumes[i].From = app.From{}
		}
		if c.Health != nil {
			health := *c.Health
			health.From = app.From{}
			c.Health = &health
		}
		b.Services = append(b.Services, &c)
	}
	slices.SortFunc(b.Services, func(x, y *app.Service) int { return cmp.Compare(x.Name, y.Name) })
	return b
}
