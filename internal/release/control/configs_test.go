package control

import (
	"testing"

	"github.com/bightdev/bight/internal/release/evidence"
)

func TestNothingSecretIsToldOfALine(t *testing.T) {
	for line, want := range map[string]string{
		"timeout: 5s":       "timeout: 5s",
		"  password: abc":   "  password: " + evidence.Hidden,
		"DB_PASSWORD=abc":   "DB_PASSWORD= " + evidence.Hidden,
		`"apiKey": "abc",`:  `"apiKey": ` + evidence.Hidden,
		"password:":         "password:",
		"# how tokens work": "# how tokens work",
	} {
		if got := hideLine(&evidence.Rules{}, line); got != want {
			t.Errorf("of %q is told %q, want %q", line, got, want)
		}
	}
}
