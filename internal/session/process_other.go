//go:build unix && !linux && !darwin

package session

import "errors"

// started is not known on this system.
func started(int) (string, error) { return "", errors.ErrUnsupported }
