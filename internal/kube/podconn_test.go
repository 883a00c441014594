package kube

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// podServer is an API server with one pod, cart in namespace shop, whose ports
// are functions.
type podServer struct {
	t         testing.TB
	ports     map[string]func(io.ReadWriteCloser)
	websocket bool // whether it knows the WebSocket protocol

	mu     sync.Mutex
	idle   *sync.Cond // no request is being served
	active int
	conns  []net.Conn
	kinds  []string
}

func (s *podServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.count(1)
	defer s.count(-1)
	switch {
	case r.URL.Path != "/api/v1/namespaces/shop/pods/cart/portforward":
		writeStatus(w, 404, metav1.StatusReasonNotFound, `pods "`+strings.Split(r.URL.Path, "/")[6]+`" not found`)
	case websocket.IsWebSocketUpgrade(r) && s.websocket:
		up := websocket.Upgrader{Subprotocols: []string{tunnelProtocol}}
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			s.t.Error(err)
			return
		}
		s.serve("websocket", func(h httpstream.NewStreamHandler) (httpstream.Connection, error) {
			return spdy.NewServerConnection(portforward.NewTunnelingConnection("server", ws), h)
		})
	case websocket.IsWebSocketUpgrade(r):
		writeStatus(w, 403, metav1.StatusReasonForbidden, `pods "cart" is forbidden: User "jane" cannot get resource "pods/portforward" in API group "" in the namespace "shop"`)
	default:
		if _, err := httpstream.Handshake(r, w, []string{forwardProtocol}); err != nil {
			s.t.Error(err)
			return
		}
		s.serve("spdy", func(h httpstream.NewStreamHandler) (httpstream.Connection, error) {
			conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, h)
			if conn == nil {
				return nil, errors.New("no upgrade")
			}
			return conn, nil
		})
	}
}

func (s *podServer) count(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active += n
	s.idle.Broadcast()
}

func (s *podServer) serve(kind string, open func(httpstream.NewStreamHandler) (httpstream.Connection, error)) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	streams := make(chan httpstream.Stream, 10)
	conn, err := open(func(st httpstream.Stream, replied <-chan struct{}) error {
		go func() { // ends with the connection at the latest
			<-replied
			streams <- st
		}()
		return nil
	})
	if err != nil {
		s.t.Error(err)
		return
	}
	s.mu.Lock()
	s.kinds = append(s.kinds, kind)
	s.mu.Unlock()
	pair := map[string]httpstream.Stream{}
	for {
		select {
		case st := <-streams:
			if pair[st.Headers().Get(corev1.StreamType)] = st; len(pair) == 2 {
				tasks.Go(func() { s.port(pair[corev1.StreamTypeData], pair[corev1.StreamTypeError]) })
			}
		case <-conn.CloseChan():
			return
		}
	}
}

func (s *podServer) port(data, errs httpstream.Stream) {
	defer errs.Close()
	defer data.Close()
	number := data.Headers().Get(corev1.PortHeader)
	if serve := s.ports[number]; serve != nil {
		serve(data)
		return
	}
	fmt.Fprintf(errs, "error forwarding port %s to pod cart, uid : failed to connect to localhost:%s inside namespace: dial tcp4 127.0.0.1:%s: connect: connection refused", number, number, number)
}

// cut breaks all port-forwards.
func (s *podServer) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.Close()
	}
}

func writeStatus(w http.ResponseWriter, code int32, reason metav1.StatusReason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(code))
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: code, Reason: reason, Message: message,
		Details: &metav1.StatusDetails{Kind: "pods", Name: "cart-0"},
	})
}

// pods starts a podServer with an echo on port 7, a sink that does not read
// on port 9 and one that says what it got on 10.
func pods(t testing.TB, ws bool) (*Cluster, *podServer) {
	t.Helper()
	stop := make(chan struct{})
	s := &podServer{t: t, websocket: ws, ports: map[string]func(io.ReadWriteCloser){
		"7": func(c io.ReadWriteCloser) { _, _ = io.Copy(c, c) },
		"9": func(c io.ReadWriteCloser) {
			<-stop
			_, _ = io.Copy(io.Discard, c)
		},
		"10": func(c io.ReadWriteCloser) {
			b, _ := io.ReadAll(c)
			fmt.Fprintf(c, "%d bytes", len(b))
		},
	}}
	s.idle = sync.NewCond(&s.mu)
	srv := httptest.NewUnstartedServer(s)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateHijacked { // the test server keeps only the others
			s.mu.Lock()
			defer s.mu.Unlock()
			s.conns = append(s.conns, c)
		}
	}
	srv.StartTLS()
	t.Cleanup(func() {
		close(stop)
		s.cut()
		srv.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		for s.active > 0 {
			s.idle.Wait()
		}
	})
	config := &rest.Config{Host: srv.URL, TLSClientConfig: rest.TLSClientConfig{CAData: certPEM(srv.Certificate().Raw)}}
	return New(config, "kind-test", "default"), s
}

// both runs a test over each of the transports.
func both(t *testing.T, run func(t *testing.T, c *Cluster, s *podServer)) {
	for _, ws := range []bool{true, false} {
		name := "spdy"
		if ws {
			name = "websocket"
		}
		t.Run(name, func(t *testing.T) {
			c, s := pods(t, ws)
			run(t, c, s)
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, kind := range s.kinds {
				if kind != name {
					t.Errorf("went over %s, want %s", kind, name)
				}
			}
		})
	}
}

func dial(t testing.TB, c *Cluster, port int) net.Conn {
	t.Helper()
	conn, err := c.DialPod(t.Context(), "shop", "cart", port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestDialPodCarriesBytesBothWays(t *testing.T) {
	both(t, func(t *testing.T, c *Cluster, _ *podServer) {
		conn := dial(t, c, 7)
		if got := conn.RemoteAddr().String(); got != "shop/cart:7" {
			t.Errorf("address %s", got)
		}
		const size = 8 << 20
		sent := sha256.New()
		done := make(chan error, 1)
		go func() {
			r := rand.New(rand.NewPCG(1, 2))
			buf := make([]byte, 300<<10)
			for left := size; left > 0; {
				p := buf[:min(left, 1+r.IntN(len(buf)))]
				for i := range p {
					p[i] = byte(r.Uint32())
				}
				sent.Write(p)
				if _, err := conn.Write(p); err != nil {
					done <- err
					return
				}
				left -= len(p)
			}
			done <- nil
		}()
		got := sha256.New()
		if _, err := io.CopyN(got, conn, size); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
			t.Error("bytes differ")
		}
	})
}

func TestDialPodHalfCloses(t *testing.T) {
	both(t, func(t *testing.T, c *Cluster, _ *podServer) {
		conn := dial(t, c, 10)
		if _, err := conn.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		if err != nil || string(got) != "1000 bytes" {
			t.Errorf("got %q, %v", got, err)
		}
		if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after CloseWrite: %v", err)
		}
	})
}

func TestNothingListens(t *testing.T) {
	both(t, func(t *testing.T, c *Cluster, _ *podServer) {
		conn := dial(t, c, 81)
		_, err := conn.Read(make([]byte, 1))
		var port *PortError
		if !errors.As(err, &port) || !port.Refused {
			t.Fatalf("read: %v, want a PortError", err)
		}
		if want := "nothing listens on port 81 in pod shop/cart"; err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
		if _, err := conn.Write([]byte("x")); !errors.As(err, &port) {
			t.Errorf("write: %v, want a PortError", err)
		}
	})
}

func TestNoSuchPod(t *testing.T) {
	c, s := pods(t, true)
	_, err := c.DialPod(t.Context(), "shop", "cart-0", 7)
	if KindOf(err) != NotFound || !strings.Contains(err.Error(), `pods "cart-0" does not exist`) {
		t.Errorf("got %s: %v", KindOf(err), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.kinds) != 0 {
		t.Errorf("tried %v as well", s.kinds)
	}
}

func TestNoRightToForward(t *testing.T) {
	c, _ := apiServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeStatus(w, 403, metav1.StatusReasonForbidden, `pods "cart" is forbidden: User "jane" cannot create resource "pods/portforward" in API group "" in the namespace "shop"`)
	}))
	_, err := c.DialPod(t.Context(), "shop", "cart", 7)
	var e *Error
	if !errors.As(err, &e) || e.Kind != Forbidden || len(e.Missing) != 1 || e.Missing[0].Subresource != "portforward" {
		t.Errorf("got %v", err)
	}
}

func TestDeadlinesOfPodConnections(t *testing.T) {
	both(t, func(t *testing.T, c *Cluster, _ *podServer) {
		conn := dial(t, c, 9)
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		_ = conn.SetReadDeadline(time.Time{})
		read := make(chan error, 1)
		go func() {
			_, err := conn.Read(make([]byte, 1))
			read <- err
		}()
		_ = conn.SetReadDeadline(time.Now()) // wakes who waits
		if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		_ = conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		var err error
		for err == nil { // until nothing more fits on the way
			_, err = conn.Write(make([]byte, 1<<20))
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
	})
}

func TestCloseUnblocksReadersAndWriters(t *testing.T) {
	both(t, func(t *testing.T, c *Cluster, _ *podServer) {
		conn := dial(t, c, 9)
		errs := make(chan error, 2)
		go func() {
			_, err := conn.Read(make([]byte, 1))
			errs <- err
		}()
		go func() {
			var err error
			for err == nil {
				_, err = conn.Write(make([]byte, 1<<20))
			}
			errs <- err
		}()
		start := time.Now()
		_ = conn.Close()
		for range 2 {
			if err := <-errs; !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v, want net.ErrClosed", err)
			}
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestALostTunnelIsNoOrdinaryEnd(t *testing.T) {
	both(t, func(t *testing.T, c *Cluster, s *podServer) {
		conn := dial(t, c, 7)
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		s.cut()
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, ErrTunnelLost) {
			t.Errorf("read: %v, want ErrTunnelLost", err)
		}
	})
}

func TestDialPodHonoursItsContext(t *testing.T) {
	for _, ws := range []bool{true, false} {
		stop := make(chan struct{})
		c, _ := apiServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !ws && websocket.IsWebSocketUpgrade(r) {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			<-stop
		}))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err := c.DialPod(ctx, "shop", "cart", 7)
		cancel()
		close(stop)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("websocket %v: got %v, want deadline exceeded", ws, err)
		}
	}
}

func TestPodDialerKeepsASpareAndOutlivesIt(t *testing.T) {
	both(t, func(t *testing.T, c *Cluster, s *podServer) {
		d := NewPodDialer(c, "shop", "cart")
		defer d.Close()
		echo := func() {
			t.Helper()
			conn, err := d.Dial(t.Context(), 7)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprint(conn, "hi")
			if _, err := io.ReadFull(conn, make([]byte, 2)); err != nil {
				t.Error(err)
			}
		}
		for range 5 {
			echo()
			d.tasks.Wait() // the spare is there
			if len(d.spare) != 1 {
				t.Fatal("there is no spare")
			}
		}
		s.cut()
		echo()
		_ = d.Close()
		if _, err := d.Dial(t.Context(), 7); !errors.Is(err, net.ErrClosed) {
			t.Errorf("dial after Close: %v", err)
		}
	})
}

func BenchmarkPodConn(b *testing.B) {
	c, _ := pods(b, true)
	b.Run("round trip", func(b *testing.B) {
		conn := dial(b, c, 7)
		p := make([]byte, 64)
		for b.Loop() {
			_, _ = conn.Write(p)
			if _, err := io.ReadFull(conn, p); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("dial", func(b *testing.B) {
		for b.Loop() {
			_ = dial(b, c, 7).Close()
		}
	})
	b.Run("dial with a spare", func(b *testing.B) {
		d := NewPodDialer(c, "shop", "cart")
		defer d.Close()
		for b.Loop() {
			conn, err := d.Dial(b.Context(), 7)
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			_ = conn.Close()
			d.tasks.Wait()
			b.StartTimer()
		}
	})
}
