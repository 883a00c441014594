package stream

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

// The stated budgets, on loopback TCP: several Gbit/s of throughput, a small
// message's round trip below 60 µs.

func benchSession(b *testing.B, handle func(context.Context, *Stream)) *Session {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	v := &Server{Token: "t", Handle: handle}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- v.Serve(ctx, ln) }()
	c := &Client{Token: "t", Dial: func(ctx context.Context) (io.ReadWriteCloser, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", ln.Addr().String())
	}}
	s, err := c.Connect(ctx)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = s.Close()
		cancel()
		<-served
	})
	return s
}

func drain(_ context.Context, st *Stream) {
	_, _ = io.Copy(io.Discard, st)
	_, _ = st.Write([]byte{1})
}

func BenchmarkThroughput(b *testing.B) {
	for _, size := range []struct {
		name  string
		bytes int
	}{{"1KiB", 1 << 10}, {"32KiB", 32 << 10}, {"1MiB", 1 << 20}} {
		b.Run("writes of "+size.name, func(b *testing.B) {
			st := open(b, benchSession(b, drain), "")
			buf := make([]byte, size.bytes)
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				if _, err := st.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			_ = st.CloseWrite()
			_, _ = io.ReadFull(st, buf[:1])
		})
	}
}

// BenchmarkRawTCP is what the transport itself can do, to compare with.
func BenchmarkRawTCP(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	echoing := func(c net.Conn) {
		defer c.Close()
		_, _ = io.Copy(struct{ io.Writer }{c}, c)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go echoing(c)
		}
	}()
	b.Run("round trip", func(b *testing.B) {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		roundTrips(b, c)
	})
	_ = ln.Close()
	<-done
}

func roundTrips(b *testing.B, c io.ReadWriter) {
	b.Helper()
	buf := make([]byte, 64)
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "p99-µs")
}

func BenchmarkRoundTrip(b *testing.B) {
	b.Run("idle", func(b *testing.B) {
		roundTrips(b, open(b, benchSession(b, echo), ""))
	})
	b.Run("beside a bulk stream", func(b *testing.B) {
		s := benchSession(b, func(ctx context.Context, st *Stream) {
			if string(st.Header()) == "bulk" {
				drain(ctx, st)
				return
			}
			echo(ctx, st)
		})
		bulk := open(b, s, "bulk")
		done := make(chan struct{})
		go func() {
			defer close(done)
			buf := make([]byte, 1<<20)
			for {
				if _, err := bulk.Write(buf); err != nil {
					return
				}
			}
		}()
		roundTrips(b, open(b, s, ""))
		_ = bulk.Close()
		<-done
	})
}

func BenchmarkOpen(b *testing.B) {
	s := benchSession(b, func(_ context.Context, st *Stream) {
		var p [8]byte
		if _, err := io.ReadFull(st, p[:]); err == nil {
			_, _ = st.Write(p[:])
		}
	})
	var n uint64
	for b.Loop() {
		n++
		st, err := s.Open(context.Background(), nil)
		if err != nil {
			b.Fatal(err)
		}
		var p [8]byte
		binary.BigEndian.PutUint64(p[:], n)
		_, _ = st.Write(p[:])
		if _, err := io.ReadFull(st, p[:]); err != nil || binary.BigEndian.Uint64(p[:]) != n {
			b.Fatal(err)
		}
		_ = st.Close()
	}
}
