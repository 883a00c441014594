package bridge

import (
	"errors"
	"sync"
	"syscall"

	"github.com/bightdev/bight/internal/stream"
)

// crowd tells the user, once, when connections fail because as many are open as a session
// with a pod carries: to the program that made them they are only reset.
type crowd struct {
	say  func(text string)
	once sync.Once
}

// note takes in how a connection went, and returns that.
func (c *crowd) note(err error) error {
	if errors.Is(err, stream.ErrBusy) || errors.Is(err, syscall.EAGAIN) {
		c.once.Do(func() {
			c.say("connections into the cluster are reset, because as many are open at once as a session with a pod carries")
		})
	}
	return err
}
