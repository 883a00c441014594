//go:build e2e

package e2e

import (
	"fmt"
	"syscall"
	"testing"
)

// The command's calls get the header of the request that caused them, with HTTP/1 and
// HTTP/2, and nobody else's do.
func TestCallsOfTheCommandGetTheHeader(t *testing.T) {
	b := newChain(t)
	const mid = "http://mid:8080/"
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"Propagate", nil, "ada\nHTTP/1.1 [ada]\nHTTP/2.0 [ada]\n"},
		{"NoPropagate", []string{"--no-propagate"}, "ada\nHTTP/1.1 []\nHTTP/2.0 []\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := b.on(t)
			args := append([]string{"run", "mid", "--intercept", "--header", "x-dev=ada"}, test.args...)
			s := b.background(nil, append(args, "--", "env", "WHO=ada", b.program("mid"))...)
			s.says("in force in 1 pod")
			c := b.client(false, true)
			b.eventually("the command answers", func() error {
				if a, err := b.ask(c, mid, "x-dev", "ada"); err != nil || a.body != test.want {
					return fmt.Errorf("%q (%s), %v", a.body, a.marker, err)
				}
				return nil
			})
			for range 5 {
				if a, err := b.ask(c, mid, "x-dev", "ada"); err != nil || a.body != test.want {
					t.Errorf("%q (%s), %v; want %q", a.body, a.marker, err, test.want)
				}
				if a, err := b.ask(c, mid); err != nil || a.body != "app\nHTTP/1.1 []\nHTTP/2.0 []\n" {
					t.Errorf("another's request is answered %q, %v", a.body, err)
				}
			}
			s.signal(syscall.SIGINT)
		})
	}
}
