package session

import (
	"testing"

	"github.com/bightdev/bight/internal/app"
)

// shopApp is an app with a program and a site.
func shopApp() *app.App {
	return &app.App{Name: "shop", Dir: "/src", Services: []*app.Service{
		{
			Name:   "cart",
			Source: app.Source{Dir: "cart", From: app.From{File: "cart/main.go", Line: 3}},
			Build:  app.Build{Kind: app.BuildGo, Module: ".", Package: "./cart", From: app.From{Line: 3}},
			Ports:  []app.Port{{Name: "http", Number: 7002, Protocol: app.HTTP, From: app.From{Line: 9}}},
			Env: []app.EnvVar{
				{Name: "LEVEL", Value: "info", Set: true, From: app.From{Line: 8}},
				{Name: "UNSET", Default: "x", From: app.From{Line: 7}},
			},
			Links:  []app.Link{{To: "web", Port: 8080, Env: "WEB", Value: "web:8080", From: app.From{Line: 12}}},
			Health: &app.Health{Kind: app.HealthHTTP, Port: 7002, Path: "/healthz", From: app.From{Line: 20}},
		},
		{
			Name:  "web",
			Build: app.Build{Kind: app.BuildStatic, Root: "web"},
			Ports: []app.Port{{Name: "http", Number: 8080, Protocol: app.HTTP}},
		},
	}}
}

func TestDifferenceTellsWhatChangesADeploymentAndNothingElse(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(a *app.App)
		want   string
	}{
		{"nothing", func(*app.App) {}, ""},
		{"facts that were read from other lines", func(a *app.App) {
			cart := a.Services[0]
			cart.Source.From.Line, cart.Build.From.Line, cart.Ports[0].From.Line = 30, 31, 32
			cart.Env[0].From.Line, cart.Links[0].From.Line, cart.Health.From.Line = 33, 34, 35
		}, ""},
		{"a default of a variable that is not set", func(a *app.App) { a.Services[0].Env[1].Default = "y" }, ""},
		{"another order", func(a *app.App) { a.Services[0], a.Services[1] = a.Services[1], a.Services[0] }, ""},
		{"a value", func(a *app.App) { a.Services[0].Env[0].Value = "debug" }, "cart: environment"},
		{"a port", func(a *app.App) { a.Services[0].Ports[0].Number = 1 }, "cart: ports"},
		{"replicas", func(a *app.App) { a.Services[1].Replicas = 2 }, "web: replicas"},
		{"a health path and a link", func(a *app.App) {
			a.Services[0].Health.Path, a.Services[0].Links = "/", nil
		}, "cart: links, health"},
		{"one more", func(a *app.App) { a.Services = append(a.Services, &app.Service{Name: "new"}) }, "new service new"},
		{"one less", func(a *app.App) { a.Services = a.Services[:1] }, "no more web"},
		{"a new name", func(a *app.App) { a.Services[0].Name = "basket" }, "new service basket; no more cart"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := shopApp()
			tt.change(now)
			if got := difference(shopApp(), now); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestShapeLeavesTheAppAsItIs(t *testing.T) {
	a := shopApp()
	shape(a)
	if a.Services[0].Ports[0].From.Line != 9 || a.Services[0].Health.From.Line != 20 || len(a.Services[0].Env) != 2 {
		t.Error("it was changed")
	}
}
