package follow

import (
	"context"
	"time"
)

// patience is between attempts to follow what can't be followed.
const patience = time.Second

// Always reports every change of the collection until ctx ends. What Changes would give
// up for, it tells to failed, and begins anew with a whole report.
func (s Source) Always(ctx context.Context, failed func(error), emit func(Change)) {
	for {
		err := s.Changes(ctx, "", func(c Change) error {
			emit(c)
			return nil
		})
		if ctx.Err() != nil {
			return
		}
		failed(err)
		select {
		case <-time.After(patience):
		case <-ctx.Done():
			return
		}
	}
}
