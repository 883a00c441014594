package steer

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// readError is an error of the side that a body comes from.
type readError struct{ err error }

func (e readError) Error() string { return "read a body: " + e.err.Error() }
func (e readError) Unwrap() error { return e.err }

// relay copies the rest of a body. seen, if not nil, is shown all of it. Its errors
// are a readError, errOdd when the framing is not understood, after which src is at
// the byte in question, or else of writing. A relay whose reading was interrupted
// can be taken up again.
func relay(dst net.Conn, src *source, b *body, seen func([]byte)) error {
	for !b.done() {
		if len(src.bytes()) == 0 {
			if n, done, err := kernelCopy(dst, src, b, seen); done {
				b.left -= n
				return err
			}
			src.roomy()
			if err := src.fill(); err != nil {
				return readError{err}
			}
		}
		n, odd := b.take(src.bytes())
		p := src.bytes()[:n]
		if seen != nil {
			seen(p)
		}
		_, err := dst.Write(p)
		src.skip(n)
		if err != nil {
			return err
		}
		if odd != nil {
			return odd
		}
	}
	return nil
}

// kernelCopy lets the kernel copy a body whose length is known, where it can.
func kernelCopy(dst net.Conn, src *source, b *body, seen func([]byte)) (n int64, done bool, err error) {
	to, ok1 := dst.(*net.TCPConn)
	from, ok2 := src.conn.(*net.TCPConn)
	if !ok1 || !ok2 || b.kind != bodyLength || seen != nil || b.left < largeBuffer || src.err != nil {
		return 0, false, nil
	}
	n, err = io.CopyN(to, from, b.left)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		src.err = io.EOF
		err = readError{err}
	case !errors.Is(err, syscall.EPIPE):
		err = readError{err} // or of writing, which is told from it only by EPIPE
	}
	return n, true, err
}
