package bridge

import (
	"strings"
	"testing"

	"github.com/bightdev/bight/internal/steer"
)

func TestACommandGoesOnWhenItsInterceptIsLeft(t *testing.T) {
	said, taken := make(chan string, 1), make(chan bool, 1)
	b := &Bridge{Say: func(text string) { said <- text }}
	left := make(chan struct{})
	o := Order{Rule: &steer.Rule{ID: "cart-1-aaaaa"}, Leave: left}
	stop := b.leaves(t.Context(), func() { taken <- true }, o)
	close(left)
	if got := <-said; !strings.Contains(got, "intercept cart-1-aaaaa ends") || !strings.Contains(got, "the command goes on") {
		t.Errorf("it says %q", got)
	}
	<-taken
	stop()
	o.Leave = nil
	b.leaves(t.Context(), func() { t.Error("the rule was taken back though nobody left it") }, o)()
}
