package agent

import "sync"

// ringSize is how much of a process's output is kept.
const ringSize = 64 << 10

// ring keeps the last bytes written to it. It may be used from many goroutines.
type ring struct {
	mu  sync.Mutex
	buf []byte // grows to ringSize
	at  int    // where the next byte goes, once it is full

	total int64
}

func (r *ring) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(p)
	r.total += int64(n)
	if len(p) >= ringSize {
		r.buf, r.at = append(r.buf[:0], p[len(p)-ringSize:]...), 0
		return n, nil
	}
	room := min(ringSize-len(r.buf), len(p))
	r.buf = append(r.buf, p[:room]...)
	for p = p[room:]; len(p) > 0; {
		k := copy(r.buf[r.at:], p)
		r.at = (r.at + k) % ringSize
		p = p[k:]
	}
	return n, nil
}

// last returns at most n of the bytes written last.
func (r *ring) last(n int) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]byte, 0, len(r.buf))
	out = append(out, r.buf[r.at:]...)
	out = append(out, r.buf[:r.at]...)
	return out[max(0, len(out)-n):]
}

// written returns how many bytes were ever written.
func (r *ring) written() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}
