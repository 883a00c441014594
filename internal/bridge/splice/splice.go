// Package splice joins two connections into one path for bytes, such that each end
// sees what the other does: the end of one direction, a reset, a stall.
//
// [Conns] returns when both directions have ended; it may be called by any number
// of goroutines. A connection can half-close if it has CloseWrite, and can be
// aborted if it has SetLinger (TCP) or Reset (the project's own streams).
package splice

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"github.com/bightdev/bight/internal/stream"
)

// Conns copies between two connections until both directions have ended, and
// closes them. The end of one direction is passed on as such; an error of either
// aborts both, so that a reset stays one.
func Conns(ctx context.Context, a, b net.Conn) {
	stop := context.AfterFunc(ctx, func() { Abort(a); Abort(b) })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { pass(a, b) })
	pass(b, a)
	both.Wait()
	_ = a.Close()
	_ = b.Close()
}

// pass copies from src to dst.
func pass(dst, src net.Conn) {
	err := copyBytes(dst, src)
	if err == nil {
		half, ok := dst.(interface{ CloseWrite() error })
		if ok && half.CloseWrite() == nil {
			return
		}
		_ = dst.Close() // it has no other way to be told
		return
	}
	Abort(dst)
	Abort(src)
}

// Abort closes a connection such that the peer sees a reset.
func Abort(c net.Conn) {
	switch c := c.(type) {
	case interface{ SetLinger(int) error }:
		_ = c.SetLinger(0)
	case interface{ Reset(code uint32) }:
		c.Reset(1)
	}
	_ = c.Close()
}

// End is a connection that can be half closed and aborted in the way that the one can
// which it stands for.
type End struct{ net.Conn }

// CloseWrite says that no more is written; without a way to say just that, it closes.
func (e End) CloseWrite() error {
	if half, ok := e.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return e.Conn.Close()
}

// SetLinger with 0 makes the next Close a reset.
func (e End) SetLinger(seconds int) error {
	switch c := e.Conn.(type) {
	case interface{ SetLinger(int) error }:
		return c.SetLinger(seconds)
	case interface{ Reset(code uint32) }:
		if seconds == 0 {
			c.Reset(stream.CodeAborted)
		}
	}
	return nil
}

// Sizes of a direction's buffer. It starts small, since most of a thousand flows
// are idle, and grows as long as the flow fills it.
const (
	smallBuffer = 4 << 10
	largeBuffer = stream.BulkWrite
)

// copyBytes copies until src ends.
func copyBytes(dst, src net.Conn) error {
	if _, ok := src.(*net.TCPConn); ok {
		if to, ok := dst.(*net.TCPConn); ok {
			_, err := io.Copy(to, src) // in the kernel
			return err
		}
	} else if from, ok := src.(io.WriterTo); ok {
		_, err := from.WriteTo(dst) // from where it lies
		return err
	}
	buf := make([]byte, smallBuffer)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case n == len(buf) && n < largeBuffer:
			buf = make([]byte, min(n*4, largeBuffer))
		case n <= smallBuffer/2 && len(buf) > smallBuffer:
			buf = make([]byte, smallBuffer)
		}
	}
}
