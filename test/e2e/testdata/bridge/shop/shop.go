// Package shop is a service that speaks what services speak and says in each answer
// who gave it: the pod, or the process that has the name of WHO on some laptop.
package shop

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// server is the service. Its ports are moved by OFFSET, so that several can run on
// one machine.
type server struct {
	who              string
	offset           int
	requests, probes atomic.Int64
}

// Serve serves until the process ends.
func Serve() {
	s := &server{who: os.Getenv("WHO")}
	s.offset, _ = strconv.Atoi(os.Getenv("OFFSET")) // none is 0
	if s.who == "" {
		s.who = "app"
	}
	go s.rpc(s.listen(9090))
	go s.raw(s.listen(7000))
	go s.datagrams()
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		s.probes.Add(1)
		w.Header().Set("X-Who", s.who)
	})
	mux.HandleFunc("/counters", s.counters)
	mux.HandleFunc("/echo", s.echo)
	mux.HandleFunc("/stream", s.stream)
	mux.HandleFunc("/api/v1/query", s.query)
	mux.HandleFunc("/ws", s.socket)
	mux.HandleFunc("/", s.answer)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	if os.Getenv("BROKEN") != "" {
		log.Print("this version is broken")
	}
	server := &http.Server{Handler: mux, Protocols: protocols}
	if os.Getenv("GRACE") != "" {
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM)
		go func() {
			<-ended
			_ = server.Shutdown(context.Background())
			os.Exit(0)
		}()
	}
	err := server.Serve(s.listen(8080))
	if errors.Is(err, http.ErrServerClosed) {
		select {} // what is under way is answered
	}
	log.Fatal(err)
}

func (s *server) listen(port int) net.Listener {
	ln, err := net.Listen("tcp", ":"+strconv.Itoa(port+s.offset))
	if err != nil {
		log.Fatal(err)
	}
	return ln
}

// answer says who answers, and by what it was asked.
func (s *server) answer(w http.ResponseWriter, r *http.Request) {
	n := s.requests.Add(1)
	w.Header().Set("X-Who", s.who)
	if d, err := time.ParseDuration(os.Getenv("SLOW")); err == nil {
		time.Sleep(d) // the pace is what is tested
	}
	wears, err := strconv.ParseInt(os.Getenv("WEARS"), 10, 64) // it breaks after so many requests
	if os.Getenv("BROKEN") != "" || err == nil && n > wears {
		http.Error(w, "this version is broken", http.StatusInternalServerError)
		return
	}
	others, err := asks(r.Context(), os.Getenv("ASKS"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	host, _ := os.Hostname()
	fmt.Fprint(w, others)
	fmt.Fprintln(w, s.who, r.Proto, host)
}

// counters are those of this process; probes are not among the requests.
func (s *server) counters(w http.ResponseWriter, r *http.Request) {
	_ = json.NewEncoder(w).Encode(map[string]int64{"requests": s.requests.Load(), "probes": s.probes.Load()})
}

// query answers as a Prometheus does, and knows one query: vector(NUMBER).
func (s *server) query(w http.ResponseWriter, r *http.Request) {
	number := strings.TrimSuffix(strings.TrimPrefix(r.FormValue("query"), "vector("), ")")
	fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[%d,%q]}]}}`, time.Now().Unix(), number)
}

// echo sends each byte back as it comes.
func (s *server) echo(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	w.Header().Set("X-Who", s.who)
	c := http.NewResponseController(w)
	_ = c.EnableFullDuplex() // HTTP/2 is
	_ = c.Flush()
	b := make([]byte, 32<<10)
	for {
		n, err := r.Body.Read(b)
		if n > 0 {
			if _, err := w.Write(b[:n]); err != nil {
				return
			}
			_ = c.Flush()
		}
		if err != nil {
			return
		}
	}
}

// stream sends n lines, one each few milliseconds.
func (s *server) stream(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	w.Header().Set("X-Who", s.who)
	n, _ := strconv.Atoi(r.FormValue("n"))
	for i := range n {
		fmt.Fprintln(w, "line", i)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-time.After(10 * time.Millisecond):
		case <-r.Context().Done():
			return
		}
	}
}

// socket sends each message back behind the name of who does.
func (s *server) socket(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		kind, b, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if err := c.Write(r.Context(), kind, append([]byte(s.who+" "), b...)); err != nil {
			return
		}
	}
}

// rpc serves gRPC: a call, and a stream of three messages that ends with an error;
// the trailers of both say who answers.
func (s *server) rpc(ln net.Listener) {
	trailer := metadata.Pairs("who", s.who)
	g := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			_ = grpc.SetTrailer(ctx, trailer)
			return next(ctx, in)
		}),
		grpc.StreamInterceptor(func(_ any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, _ grpc.StreamHandler) error {
			ss.SetTrailer(trailer)
			for range 3 {
				if err := ss.SendMsg(&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}); err != nil {
					return err
				}
			}
			return status.Error(codes.DataLoss, "that was all")
		}))
	healthpb.RegisterHealthServer(g, health.NewServer())
	log.Fatal(g.Serve(ln))
}

// raw sends each line back behind the name of who does.
func (s *server) raw(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer c.Close()
			lines := bufio.NewReader(c)
			for {
				line, err := lines.ReadString('\n')
				if err != nil {
					return
				}
				if _, err := io.WriteString(c, s.who+" "+line); err != nil {
					return
				}
			}
		}()
	}
}

// datagrams sends each datagram back behind the name of who does.
func (s *server) datagrams() {
	c, err := net.ListenPacket("udp", ":"+strconv.Itoa(7001+s.offset))
	if err != nil {
		log.Fatal(err)
	}
	b := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			log.Fatal(err)
		}
		_, _ = c.WriteTo([]byte(s.who+" "+strings.TrimSpace(string(b[:n]))), from)
	}
}
