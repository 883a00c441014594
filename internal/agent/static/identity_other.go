//go:build !linux

package static

import "io/fs"

const nonblock = 0

// identify knows no identity that can be trusted on this system; contents are
// hashed each time.
func identify(fs.FileInfo) (identity, bool) { return identity{}, false }
