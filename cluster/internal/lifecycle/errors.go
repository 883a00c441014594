package lifecycle

import (
	"context"
	"errors"

	"github.com/bightdev/bight/cluster/internal/host"
)

// UsageError is a request that makes no sense as it was made.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }
func (e UsageError) Unwrap() error { return e.Err }

// UnknownError is a request about a cluster that does not exist.
type UnknownError struct{ Err error }

func (e UnknownError) Error() string { return e.Err.Error() }
func (e UnknownError) Unwrap() error { return e.Err }

// ExitCode returns the code that a program ends with after err.
func ExitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, context.Canceled):
		return 130
	case errors.As(err, new(UsageError)):
		return 2
	case errors.Is(err, host.ErrNotPermitted):
		return 3
	case errors.As(err, new(UnknownError)):
		return 4
	}
	return 1
}
