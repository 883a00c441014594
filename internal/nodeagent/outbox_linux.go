package nodeagent

import (
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
)

// outbox has what was counted of one release and has not reached the controller. What
// was sent stays what it is until there is an answer: it may have counted although
// nobody has heard so. Meanwhile the rest becomes one, whose size is bounded. It is
// pure.
type outbox struct {
	spec.Batch // the next, without Seq
	seq        int64
	out        *spec.Batch // without an answer
	told       string      // Convicted, as the controller knows it
}

// put adds what was counted.
func (o *outbox) put(c verdict.Counts) { o.Counts = verdict.Merge(o.Counts, c) }

// next is what to send now, nil for nothing.
func (o *outbox) next() *spec.Batch {
	if o.out != nil {
		return o.out
	}
	if len(o.Counts.Cells) == 0 && len(o.Counts.Moved) == 0 && o.Stable == nil && o.Convicted == o.told {
		return nil
	}
	b := o.Batch
	o.seq++
	b.Seq = o.seq
	o.out, o.Counts, o.Stable = &b, verdict.Counts{}, nil
	return o.out
}

// answered says that the last one has counted, or never will.
func (o *outbox) answered() {
	o.told, o.out = o.out.Convicted, nil
}
