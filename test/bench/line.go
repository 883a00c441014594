package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
)

// The ports of the wire service.
const (
	wireHTTP    = 8080
	wireEcho    = 7001
	wireSwallow = 7002
	wireSend    = 7003
)

// line measures what carries bytes to a wire service. Its methods are called one at
// a time.
type line struct {
	dial    func(ctx context.Context, port int) (net.Conn, error)
	stalled []net.Conn
}

// task is what is measured on a line.
type task string

const (
	taskEcho   task = "echo"   // small requests, one after the other
	taskUp     task = "up"     // bytes to the service
	taskDown   task = "down"   // bytes from it
	taskStall  task = "stall"  // leave a transfer from the service unread from now on
	taskResume task = "resume" // give up what was left unread
	taskCrowd  task = "crowd"  // bytes from the service on many connections at once
)

// order is one task. It is JSON where the line is another process's.
type order struct {
	Task  task          `json:"task"`
	Count int           `json:"count,omitempty"` // of requests or connections
	Bytes int64         `json:"bytes,omitempty"` // of each connection
	Every time.Duration `json:"every,omitempty"` // between two requests
	// Echo makes small requests beside the transfer, for as long as it takes.
	Echo bool `json:"echo,omitempty"`
}

// outcome is what came of an order.
type outcome struct {
	Took  time.Duration   `json:"took"`           // the transfer
	Each  []time.Duration `json:"each,omitempty"` // each request or connection
	Error string          `json:"error,omitempty"`
}

// carrier carries out orders: a line of this process or of another.
type carrier interface {
	do(ctx context.Context, o order) (outcome, error)
}

func (l *line) do(ctx context.Context, o order) (outcome, error) {
	var out outcome
	var err error
	switch o.Task {
	case taskEcho:
		out.Each, err = l.echo(ctx, o.Every, func(done int) bool { return done == o.Count })
	case taskUp, taskDown:
		if o.Echo {
			return l.beside(ctx, o)
		}
		out.Took, err = l.bulk(ctx, o.Task, o.Bytes)
	case taskStall:
		err = l.stall(ctx, o.Count)
	case taskResume:
		l.resume()
	case taskCrowd:
		out.Each, err = l.crowd(ctx, o.Count, o.Bytes)
	default:
		err = fmt.Errorf("there is no task %q", o.Task)
	}
	return out, err
}

// open connects; the end of ctx ends the connection.
func (l *line) open(ctx context.Context, port int) (conn net.Conn, shut func(), err error) {
	if conn, err = l.dial(ctx, port); err != nil {
		return nil, nil, err
	}
	unbind := context.AfterFunc(ctx, func() { conn.Close() })
	return conn, func() { unbind(); conn.Close() }, nil
}

// smallRequest is how many bytes a small request has, and its answer.
const smallRequest = 64

// echo makes small requests on one connection until enough says so.
func (l *line) echo(ctx context.Context, every time.Duration, enough func(done int) bool) ([]time.Duration, error) {
	conn, shut, err := l.open(ctx, wireEcho)
	if err != nil {
		return nil, err
	}
	defer shut()
	var all []time.Duration
	b := make([]byte, smallRequest)
	const warm = 5 // requests that connect, and don't count
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := 0; !enough(len(all)); i++ {
		began := time.Now()
		if _, err := conn.Write(b); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(conn, b); err != nil {
			return nil, err
		}
		if i >= warm {
			all = append(all, time.Since(began))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return all, nil
}

// bulk transfers bytes on a connection of its own and returns how long that took,
// once it is open.
func (l *line) bulk(ctx context.Context, direction task, bytes int64) (time.Duration, error) {
	port, transfer := wireSwallow, give
	if direction == taskDown {
		port, transfer = wireSend, take
	}
	conn, shut, err := l.open(ctx, port)
	if err != nil {
		return 0, err
	}
	defer shut()
	if err := transfer(conn, 1); err != nil { // it is open at both ends then
		return 0, err
	}
	began := time.Now()
	err = transfer(conn, bytes)
	return time.Since(began), err
}

// give sends bytes and waits until the service has them.
func give(conn net.Conn, bytes int64) error {
	if err := tell(conn, bytes); err != nil {
		return err
	}
	b := make([]byte, 256<<10)
	for bytes > 0 {
		n, err := conn.Write(b[:min(bytes, int64(len(b)))])
		if err != nil {
			return err
		}
		bytes -= int64(n)
	}
	_, err := io.ReadFull(conn, b[:1])
	return err
}

// take asks for bytes and reads them.
func take(conn net.Conn, bytes int64) error {
	if err := tell(conn, bytes); err != nil {
		return err
	}
	b := make([]byte, min(bytes, 256<<10))
	for bytes > 0 {
		n, err := conn.Read(b[:min(bytes, int64(len(b)))])
		if err != nil {
			return err
		}
		bytes -= int64(n)
	}
	return nil
}

func tell(conn net.Conn, bytes int64) error {
	_, err := conn.Write(binary.BigEndian.AppendUint64(nil, uint64(bytes)))
	return err
}

// beside makes small requests for as long as a transfer takes.
func (l *line) beside(ctx context.Context, o order) (outcome, error) {
	var out outcome
	over := make(chan struct{})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		defer close(over)
		out.Took, err = l.bulk(ctx, o.Task, o.Bytes)
		return err
	})
	g.Go(func() (err error) {
		out.Each, err = l.echo(ctx, o.Every, func(int) bool {
			select {
			case <-over:
				return true
			default:
				return false
			}
		})
		return err
	})
	if err := g.Wait(); err != nil {
		return out, err
	}
	if len(out.Each) == 0 {
		return out, errors.New("the transfer was over before a request was made: it has to be larger")
	}
	return out, nil
}

// stall opens transfers without end, and reads the beginning of each.
func (l *line) stall(ctx context.Context, count int) error {
	for range count {
		conn, err := l.dial(ctx, wireSend)
		if err != nil {
			return err
		}
		l.stalled = append(l.stalled, conn)
		if err := tell(conn, math.MaxInt64); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			return err
		}
	}
	return nil
}

func (l *line) resume() {
	for _, conn := range l.stalled {
		conn.Close()
	}
	l.stalled = nil
}

// crowd opens many connections, asks on all at once for bytes, and returns how long
// each of them took from then.
func (l *line) crowd(ctx context.Context, count int, bytes int64) ([]time.Duration, error) {
	conns := make([]net.Conn, count)
	opening, openingCtx := errgroup.WithContext(ctx)
	opening.SetLimit(50)
	for i := range conns {
		opening.Go(func() error {
			conn, err := l.dial(openingCtx, wireSend)
			if err != nil {
				return err
			}
			conns[i] = conn
			return take(conn, 1)
		})
	}
	all := make([]time.Duration, count)
	shut := func() {
		for _, conn := range conns {
			if conn != nil {
				conn.Close()
			}
		}
	}
	err := opening.Wait()
	unbind := context.AfterFunc(ctx, shut)
	defer shut()
	defer unbind()
	if err != nil {
		return nil, err
	}
	var asking errgroup.Group
	began := time.Now()
	for i, conn := range conns {
		asking.Go(func() error {
			err := take(conn, bytes)
			all[i] = time.Since(began)
			return err
		})
	}
	return all, asking.Wait()
}
