package replay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/bightdev/bight/internal/release/evidence"
)

// TestDir is where, below a service's directory or the app's, the evidence is that each
// preview of a change must pass.
const TestDir = "testdata/replay"

// Test makes a file of what of a bundle a program can be tested with: the requests that
// the version has failed at, and that were kept whole. n is how many.
func Test(b *evidence.Bundle) (text []byte, n int, err error) {
	t := *b
	t.Path, t.Pods, t.Differs, t.Moved = nil, nil, nil, nil
	t.Pairs = slices.DeleteFunc(slices.Clone(b.Pairs), func(p evidence.Pair) bool {
		return p.Version != "canary" || p.Class != evidence.Failed || p.Request.Body.Cut
	})
	if len(t.Pairs) == 0 {
		return nil, 0, fmt.Errorf("release %s has no request that failed and was kept whole: there is nothing that a test could ask", b.Release)
	}
	for i := range t.Pairs {
		p := &t.Pairs[i]
		p.Node, p.Pod = "", ""
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ") // people review it
	if err := enc.Encode(&t); err != nil {
		return nil, 0, err
	}
	return out.Bytes(), len(t.Pairs), nil
}
