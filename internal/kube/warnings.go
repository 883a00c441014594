package kube

import "sync"

// warnAgent is the code of the warnings that an API server itself sends.
const warnAgent = 299

// warnings passes each different warning of an API server on once.
type warnings struct {
	tell func(text string)

	mu   sync.Mutex
	told map[string]bool
}

// HandleWarningHeader implements rest.WarningHandler.
func (w *warnings) HandleWarningHeader(code int, _, text string) {
	if code != warnAgent || text == "" {
		return
	}
	w.mu.Lock()
	known := w.told[text]
	w.told[text] = true
	w.mu.Unlock()
	if !known {
		w.tell(text)
	}
}
