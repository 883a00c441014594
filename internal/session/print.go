package session

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/ui/term"
)

// printPlan says what was found, one line a service, and what could not be read.
func (s *Session) printPlan(a *app.App) {
	for _, service := range a.Services {
		s.Printer.Event(term.Event{Type: term.Plan, Service: service.Name, Text: summary(service), Why: service.Source.From.Place()})
	}
	for _, file := range a.Unreadable {
		s.Printer.Fail("", fmt.Errorf("%s: %s", file.From.Place(), file.Text), "", "what this file says is not known: services, ports and links may be missing")
	}
}

// unreadable is the error of source that does not parse, which printPlan reported.
func unreadable(a *app.App) error {
	if len(a.Unreadable) == 0 {
		return nil
	}
	return reported{fmt.Errorf("%s: %s", a.Unreadable[0].From.Place(), a.Unreadable[0].Text)}
}

// few names things as long as they are few: "cart, web", "7 services".
func few(names []string, what string) string {
	if len(names) > 3 {
		return term.Count(len(names), what)
	}
	return strings.Join(slices.Sorted(slices.Values(names)), ", ")
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

// progress shows how a rollout goes on. The Waiter calls it from one goroutine.
type progress struct {
	session *Session
	changed map[string]bool
	waiting []string
	task    *term.Task
}

func (s *Session) newProgress(a *app.App, changed map[string]bool) *progress {
	p := &progress{session: s, changed: changed}
	for _, service := range a.Services {
		p.waiting = append(p.waiting, service.Name)
	}
	p.task = s.Printer.Task(term.Ready, "", p.text())
	return p
}

func (p *progress) text() string { return "waiting for " + few(p.waiting, "service") }

func (p *progress) take(step deploy.Progress) {
	switch step.Phase {
	case deploy.PhaseServing:
		p.session.Printer.Event(term.Event{Type: term.Ready, Service: step.Service, Took: step.Since, Quiet: !p.changed[step.Service]})
	case deploy.PhaseFailed:
		text := step.Failure.Error()
		p.session.Printer.Fail(step.Service, errors.New(firstLine(text)), rest(text), "")
	default:
		return
	}
	p.waiting = slices.DeleteFunc(p.waiting, func(name string) bool { return name == step.Service })
	p.task.Update(p.text())
}

func (p *progress) end() { p.task.Drop() }

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

func rest(text string) string {
	_, more, _ := strings.Cut(text, "\n")
	return more
}
