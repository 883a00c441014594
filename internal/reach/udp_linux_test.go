package reach

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// echoUDP sends every datagram back until the test ends.
func echoUDP(t testing.TB, addr string) string {
	t.Helper()
	c, err := net.ListenPacket("udp", addr)
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65535)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buf[:n], from)
		}
	}()
	t.Cleanup(func() {
		_ = c.Close()
		<-done
	})
	return c.LocalAddr().String()
}

func TestDatagramsKeepTheirBounds(t *testing.T) {
	for _, network := range []string{"127.0.0.1:0", "[::1]:0"} {
		s := connect(t, &Server{})
		c, err := Dial(t.Context(), s, "udp", echoUDP(t, network))
		must(t, err)
		must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		buf := make([]byte, 65535)
		for _, n := range []int{1, 0, 512, 1500, 65507, 3} {
			b := make([]byte, n)
			for i := range b {
				b[i] = byte(i + n)
			}
			_, err := c.Write(b)
			must(t, err)
			got, err := c.Read(buf)
			if err != nil || string(buf[:got]) != string(b) {
				t.Errorf("datagram of %d bytes: %d came back, %v", n, got, err)
			}
		}
		_, err = c.Write([]byte("longer than the buffer"))
		must(t, err)
		if n, err := c.Read(buf[:6]); string(buf[:n]) != "longer" || err != nil {
			t.Errorf("read %q, %v", buf[:n], err)
		}
		if _, err := c.Write(make([]byte, maxDatagram+1)); err == nil {
			t.Error("a datagram that is too long is taken")
		}
		must(t, c.Close())
	}
}

func TestRefusedDatagramIsToldAndTheFlowLivesOn(t *testing.T) {
	s := connect(t, &Server{})
	c, err := Dial(t.Context(), s, "udp", "127.0.0.1:"+closedPort(t))
	must(t, err)
	defer c.Close()
	for range 3 {
		_, err := c.Write([]byte("x"))
		must(t, err)
		must(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("Read = %v, want ECONNREFUSED", err)
		}
	}
}

func TestIdleFlowOfDatagramsEnds(t *testing.T) {
	s := connect(t, &Server{UDPIdle: 50 * time.Millisecond})
	c, err := Dial(t.Context(), s, "udp", echoUDP(t, "127.0.0.1:0"))
	must(t, err)
	defer c.Close()
	_, err = c.Write([]byte("x"))
	must(t, err)
	b := make([]byte, 9)
	if n, err := c.Read(b); n != 1 || err != nil {
		t.Fatalf("Read = %d, %v", n, err)
	}
	if _, err := c.Read(b); !errors.Is(err, io.EOF) {
		t.Errorf("Read = %v, want the end", err)
	}
}

func TestFlowsOfDatagramsAreCounted(t *testing.T) {
	const limit = 4
	v := &Server{UDPFlows: limit}
	s := connect(t, v)
	addr := echoUDP(t, "127.0.0.1:0")
	var all []net.Conn
	for range limit {
		c, err := Dial(t.Context(), s, "udp", addr)
		must(t, err)
		all = append(all, c)
	}
	if _, err := Dial(t.Context(), s, "udp", addr); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("one more than the limit: %v", err)
	}
	for _, c := range all {
		must(t, c.Close())
	}
	eventually(t, "room for another", func() bool {
		c, err := Dial(t.Context(), s, "udp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	eventually(t, "no flow left", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return len(v.udp) == 0
	})
}

func TestManyFlowsOfDatagramsAtOnce(t *testing.T) {
	s := connect(t, &Server{})
	addr := echoUDP(t, "127.0.0.1:0")
	var g sync.WaitGroup
	for i := range 100 {
		g.Go(func() {
			c, err := Dial(t.Context(), s, "udp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			b := make([]byte, 64)
			for k := range 20 {
				want := fmt.Sprint(i, k)
				_, _ = c.Write([]byte(want))
				_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
				if n, err := c.Read(b); string(b[:n]) != want || err != nil {
					t.Errorf("read %q, %v, want %q", b[:n], err, want)
					return
				}
			}
		})
	}
	g.Wait()
}
