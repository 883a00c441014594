package suite

import (
	"context"
	"os"
	"path/filepath"
	"slices"
)

// maxRead is how many files tests may have read for it to be remembered which.
const maxRead = 4096

// read returns the digests of what was read of the source, by path, or nil where that is
// not known.
func (r *run) read(seen *witness) map[string]string {
	names, ok := seen.end()
	if !ok || len(names) > maxRead {
		return nil
	}
	files := newHashes(r.root) // as they are now, which is as they were all the time
	out := map[string]string{}
	for _, name := range names {
		path := filepath.Join(r.root, name)
		if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() { // to open a pipe takes two
			return nil
		}
		sum, err := files.file(path)
		if err != nil {
			return nil
		}
		out[filepath.ToSlash(name)] = sum
	}
	return out
}

// keepRead remembers a result by what its tests have read.
func (r *run) keepRead(ctx context.Context, u Unit, res UnitResult, read map[string]string) {
	flaky := slices.ContainsFunc(res.Tests, func(t Test) bool { return t.Flaky })
	if u.Shape == "" || read == nil || flaky {
		return
	}
	if err := r.Cache.PutRead(context.WithoutCancel(ctx), r.trust(), r.From, u.Shape, res, read); err != nil {
		r.note("%v", err)
	}
}
