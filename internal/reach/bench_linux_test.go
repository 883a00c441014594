package reach

import (
	"context"
	"io"
	"net"
	"testing"
)

// flows are the ways to an address that the benchmarks compare.
func flows(b *testing.B, run func(b *testing.B, dial func(addr string) net.Conn)) {
	b.Run("loopback", func(b *testing.B) {
		run(b, func(addr string) net.Conn {
			c, err := net.Dial("tcp", addr)
			must(b, err)
			return c
		})
	})
	b.Run("reach", func(b *testing.B) {
		s := connect(b, &Server{})
		run(b, func(addr string) net.Conn {
			c, err := Dial(context.Background(), s, "tcp", addr)
			must(b, err)
			return c
		})
	})
}

func BenchmarkRoundTrip(b *testing.B) {
	flows(b, func(b *testing.B, dial func(string) net.Conn) {
		c := dial(listen(b, "127.0.0.1:0", echo).String())
		defer c.Close()
		for b.Loop() {
			must(b, roundTrip(c, 64))
		}
	})
}

func BenchmarkConnect(b *testing.B) {
	flows(b, func(b *testing.B, dial func(string) net.Conn) {
		addr := listen(b, "127.0.0.1:0", echo).String()
		for b.Loop() {
			c := dial(addr)
			must(b, roundTrip(c, 64))
			_ = c.Close()
		}
	})
}

func BenchmarkDownload(b *testing.B) {
	flows(b, func(b *testing.B, dial func(string) net.Conn) {
		block := make([]byte, 256<<10)
		c := dial(listen(b, "127.0.0.1:0", func(c *net.TCPConn) {
			for {
				if _, err := c.Write(block); err != nil {
					return
				}
			}
		}).String())
		defer c.Close()
		buf := make([]byte, 256<<10)
		b.SetBytes(int64(len(buf)))
		for b.Loop() {
			_, err := io.ReadFull(c, buf)
			must(b, err)
		}
	})
}

func BenchmarkUpload(b *testing.B) {
	flows(b, func(b *testing.B, dial func(string) net.Conn) {
		c := dial(listen(b, "127.0.0.1:0", func(c *net.TCPConn) {
			buf := make([]byte, 256<<10)
			for {
				if _, err := c.Read(buf); err != nil {
					return
				}
			}
		}).String())
		defer c.Close()
		buf := make([]byte, 256<<10)
		b.SetBytes(int64(len(buf)))
		for b.Loop() {
			_, err := c.Write(buf)
			must(b, err)
		}
	})
}

func BenchmarkQuestion(b *testing.B) {
	n := &nameserver{ip: "127.0.0.1", answer: normal}
	r := resolverFor(b, n.start(b, "0"), "nameserver 127.0.0.1\n")
	q := query(1, "cart.shop")
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_, err := r.Exchange(context.Background(), q)
			must(b, err)
		}
	})
}
