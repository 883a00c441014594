package plantext

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/app"
)

func TestWriteShowsEachFactWithItsReason(t *testing.T) {
	at := func(line int, c app.Confidence, why string) app.From {
		return app.From{File: "cart/main.go", Line: line, Confidence: c, Why: why}
	}
	a := &app.App{Name: "shop", Services: []*app.Service{{
		Name:     "cart",
		Source:   app.Source{Dir: "cart", From: at(9, app.Certain, "package main that listens")},
		Build:    app.Build{Kind: app.BuildGo, Module: "cart", Package: ".", From: at(9, app.Certain, "package main"), Assets: []app.Asset{{Path: "cart/ui", As: "ui", From: at(4, app.Likely, "the code opens ./ui")}}},
		Args:     []string{"serve", "--web=http://web:1", "--x=1"},
		ArgsFrom: app.From{File: "bight.yaml", Line: 4, Why: "set by you"},
		Ports:    []app.Port{{Name: "http", Number: 80, Protocol: app.HTTP, From: at(1, app.Certain, "default of $PORT")}, {Name: "metrics", Number: 90, Protocol: app.HTTP, From: at(2, app.Guess, "")}},
		Health:   &app.Health{Kind: app.HealthHTTP, Port: 80, Path: "/healthz", From: at(3, app.Likely, "")},
		Links:    []app.Link{{To: "web", Port: 1, Env: "WEB_URL", Value: "http://web:1", From: at(5, app.Likely, "$WEB_URL names web")}, {To: "web", Port: 1, Flag: "web", Value: "http://web:1", From: at(6, app.Certain, "--web names web")}},
		Env:      []app.EnvVar{{Name: "A_TOKEN", Value: "hunter2", Set: true, Secret: true, From: at(6, "", "")}, {Name: "B", Default: "b", From: at(7, "", "")}, {Name: "C", Required: true, From: at(8, "", "")}, {Name: "D_KEY", Secret: true, Default: "hunter3", From: at(8, "", "")}, {Name: "WEB_URL", Set: true, Value: "http://web:1"}},
		Replicas: 2,
		Volumes:  []app.Volume{{Name: "data", Path: "/data", Size: "1Gi", From: app.From{File: "bight.yaml"}}},
	}},
		Tasks:     []*app.Task{{Name: "seed", Command: []string{"./cart", "seed"}}},
		Notes:     []app.Note{{Text: "tool does not listen", From: at(1, "", "")}},
		Questions: []app.Question{{Text: "What is $C?", From: at(8, "", "")}},
	}
	var b strings.Builder
	if err := Write(&b, a); err != nil {
		t.Fatal(err)
	}
	want := `app shop: 1 service

cart
  source    cart                          cart/main.go:9: package main that listens
  build     go build . in cart            cart/main.go:9: package main
  asset     cart/ui as ui                 cart/main.go:4: the code opens ./ui (likely)
  arg       serve                         bight.yaml:4: set by you
  arg       --web=http://web:1            cart/main.go:6: --web names web
  arg       --x=1                         bight.yaml:4: set by you
  port      80 http                       cart/main.go:1: default of $PORT
  port      90 metrics (http)             cart/main.go:2 (a guess)
  health    http 80 /healthz              cart/main.go:3 (likely)
  link      $WEB_URL -> web  http://web:1 cart/main.go:5: $WEB_URL names web (likely)
  link      --web -> web  http://web:1    cart/main.go:6: --web names web
  env       A_TOKEN=(secret)              cart/main.go:6
  env       B unset, default b            cart/main.go:7
  env       C needed                      cart/main.go:8
  env       D_KEY unset, has a default    cart/main.go:8
  replicas  2                             
  volume    data at /data, 1Gi            bight.yaml

tasks
    seed  ./cart seed  .

left alone
  cart/main.go:1: tool does not listen

to be answered before anything is deployed
  cart/main.go:8: What is $C?
`
	if diff := cmp.Diff(strings.Fields(want), strings.Fields(b.String())); diff != "" {
		t.Errorf("plan differs (-want +got):\n%s\n%s", diff, b.String())
	}
}

type broken struct{}

var errBroken = errors.New("broken")

func (broken) Write([]byte) (int, error) { return 0, errBroken }

func TestWriteReportsAnErrorOfTheWriter(t *testing.T) {
	if err := Write(broken{}, &app.App{Name: "shop"}); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
}

func TestStrangeNamesDoNotReachTheTerminal(t *testing.T) {
	a := &app.App{Name: "shop", Services: []*app.Service{{
		Name:   "cart",
		Source: app.Source{Dir: "new\nline", From: app.From{File: "lat\xe9 in/\x1b[31m.go", Line: 3}},
		Build:  app.Build{Kind: app.BuildStatic, Root: "näme with space", From: app.From{File: "a b.html"}},
	}}}
	var b strings.Builder
	if err := Write(&b, a); err != nil {
		t.Fatal(err)
	}
	want := `app shop: 1 service

cart
  source  new\nline                 "lat\xe9 in/\x1b[31m.go":3
  build   files of näme with space  a b.html
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Errorf("plan (-want +got):\n%s", d)
	}
}
