package bridge

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

	"github.com/bightdev/bight/internal/stream"
)

func TestTooManyConnectionsAreSaidToBeOnce(t *testing.T) {
	var said []string
	c := &crowd{say: func(text string) { said = append(said, text) }}
	for _, err := range []error{nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, errors.New("no way")} {
		if got := c.note(err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
	if len(said) != 0 {
		t.Errorf("it says %q of what has other reasons", said)
	}
	for _, err := range []error{
		&net.OpError{Op: "dial", Err: &stream.ResetError{Code: stream.CodeBusy}},
		fmt.Errorf("dial: %w", stream.ErrBusy), &net.OpError{Op: "dial", Err: syscall.EAGAIN},
	} {
		_ = c.note(err)
	}
	if len(said) != 1 {
		t.Errorf("it says %q, want one line", said)
	}
}
