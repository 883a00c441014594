package steer

import "sync"

// tasks are what others begin, until nothing may begin any more: of a WaitGroup nobody may
// begin to wait while somebody adds the first.
type tasks struct {
	mu    sync.Mutex
	ended bool
	all   sync.WaitGroup
}

// begin says whether one more may begin; it is to be done.
func (t *tasks) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.all.Add(1)
	}
	return !t.ended
}

func (t *tasks) done() { t.all.Done() }

// end waits for those that have begun, and lets no other begin.
func (t *tasks) end() {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.all.Wait()
}
