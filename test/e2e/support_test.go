//go:build e2e

package e2e

import (
	"bytes"
	stdcontext "context"
	"sync"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func context() stdcontext.Context { return stdcontext.Background() }

func deleteNow() meta.DeleteOptions {
	zero := int64(0)
	return meta.DeleteOptions{GracePeriodSeconds: &zero}
}

// lockedBuffer collects a program's output while others read it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
