package worker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// errClaimed tells that another process has a directory.
var errClaimed = errors.New("claimed by another process")

// Claim returns a directory below base that no other worker of this machine has, for
// as long as this process lives or until release. It is the same one again and again
// where only one worker runs at a time, which keeps the toolchains' caches warm.
func Claim(base string) (dir string, release func() error, err error) {
	for i := range 100 {
		dir = filepath.Join(base, fmt.Sprint(i))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", nil, fmt.Errorf("make the worker's directory: %w", err)
		}
		f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return "", nil, fmt.Errorf("make the worker's directory: %w", err)
		}
		err = lock(f)
		if err == nil {
			return dir, f.Close, nil
		}
		_ = f.Close()
		if !errors.Is(err, errClaimed) {
			return "", nil, fmt.Errorf("lock %s: %w", dir, err)
		}
	}
	return "", nil, fmt.Errorf("100 workers run on this machine, with directories below %s", base)
}
