package cli

import (
	"strings"
	"testing"

	"github.com/bightdev/bight/internal/app"
)

func TestThePortWhoseRequestsAreSteered(t *testing.T) {
	dns := app.Port{Name: "dns", Number: 53, Protocol: app.UDP}
	web, raw := app.Port{Name: "web", Number: 8080, Protocol: app.HTTP}, app.Port{Name: "raw", Number: 9000, Protocol: app.TCP}
	for _, test := range []struct {
		name  string
		ports []app.Port
		port  string
		want  int
		err   string
		code  int
	}{
		{"the main one", []app.Port{web, raw}, "", 8080, "", 0},
		{"the first that is not UDP", []app.Port{dns, raw, web}, "", 9000, "", 0},
		{"by name", []app.Port{dns, web, raw}, "raw", 9000, "", 0},
		{"by number", []app.Port{dns, web, raw}, "8080", 8080, "", 0},
		{"UDP", []app.Port{dns, web}, "dns", 0, "speaks UDP, which cannot be steered", exitUsage},
		{"nothing but UDP", []app.Port{dns}, "", 0, "has no TCP port", exitUsage},
		{"none at all", nil, "", 0, "has no TCP port", exitUsage},
		{"unknown", []app.Port{dns, web}, "81", 0, "has no port 81; there is 53 (dns), 8080 (web)", exitNotFound},
	} {
		got, err := findPort(&app.Service{Name: "cart", Ports: test.ports}, test.port)
		switch {
		case test.err == "" && (err != nil || got.Number != test.want):
			t.Errorf("%s: %+v, %v; want %d", test.name, got, err, test.want)
		case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err) || exitCode(t.Context(), err) != test.code):
			t.Errorf("%s: %v, want %q and exit code %d", test.name, err, test.err, test.code)
		}
	}
}
