package suite

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// unprivileged does something as a user to whom files are closed by their modes, as they are
// not to root: in a thread of its own, which has no right to pass these over.
func unprivileged(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var rights [2]unix.CapUserData
		err := unix.Capget(&header, &rights[0])
		if err == nil {
			rights[0].Effective &^= 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH
			err = unix.Capset(&header, &rights[0])
		}
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

// A database of the developer's may keep its files there, as another user.
func TestWhatIsClosedToThisUserIsNoInput(t *testing.T) {
	root := app(t, map[string]string{"a": "1", "db/b": "2", "c": "3"})
	closed := map[string]os.FileMode{"db": 0o700, "c": 0o600}
	for name := range closed {
		if err := os.Chmod(filepath.Join(root, name), 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for name, mode := range closed {
			_ = os.Chmod(filepath.Join(root, name), mode) // so that it can be removed
		}
	})
	digest := func() (sum string) {
		if err := unprivileged(func() (err error) {
			if _, err := os.ReadFile(filepath.Join(root, "c")); !os.IsPermission(err) {
				t.Errorf("it is not closed: %v", err)
			}
			sum, err = newHashes(root).tree(root)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return sum
	}
	before := digest()
	write(t, root, map[string]string{"a": "2"})
	if digest() == before {
		t.Error("the rest is not read")
	}
}
