package session

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/bightdev/bight/internal/app"
)

// shape is what of an app decides how it is deployed: everything but where each
// fact was read, which changes with every line that is added above it.
func shape(a *app.App) app.App {
	b := app.App{Name: a.Name}
	for _, service := range a.Services {
		c := *service
		c.Entry, c.Source.From, c.Build.From, c.ArgsFrom = app.From{}, app.From{}, app.From{}, app.From{}
		c.Test = nil
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

// difference says in a few words how the shape of an app has changed, "" when it
// has not.
func difference(old, now *app.App) string {
	was, is := shape(old), shape(now)
	var parts []string
	for _, service := range is.Services {
		before := was.Service(service.Name)
		switch {
		case before == nil:
			parts = append(parts, "new service "+service.Name)
		case !reflect.DeepEqual(before, service):
			parts = append(parts, fmt.Sprintf("%s: %s", service.Name, strings.Join(aspects(before, service), ", ")))
		}
	}
	for _, service := range was.Services {
		if is.Service(service.Name) == nil {
			parts = append(parts, "no more "+service.Name)
		}
	}
	return strings.Join(parts, "; ")
}

// aspects names what of a service is different.
func aspects(old, now *app.Service) []string {
	var names []string
	for _, a := range []struct {
		name     string
		was, now any
	}{
		{"source", old.Source, now.Source}, {"build", old.Build, now.Build}, {"args", old.Args, now.Args},
		{"ports", old.Ports, now.Ports}, {"environment", old.Env, now.Env}, {"links", old.Links, now.Links},
		{"health", old.Health, now.Health}, {"volumes", old.Volumes, now.Volumes}, {"replicas", old.Replicas, now.Replicas},
	} {
		if !reflect.DeepEqual(a.was, a.now) {
			names = append(names, a.name)
		}
	}
	return names
}
