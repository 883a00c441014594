package bridge

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime/metrics"
	"strings"
	"testing"

	"github.com/bightdev/bight/internal/bridge/splice"
	"github.com/bightdev/bight/internal/reach"
	"github.com/bightdev/bight/internal/stream"
)

func init() { roles["agent"] = beAnAgent }

// beAnAgent is an agent in a process of its own, so that its memory is not counted as
// the laptop's: it prints where it takes sessions and where bytes come and go.
func beAnAgent() error {
	agents, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	service, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(agents.Addr(), service.Addr())
	go serveBytes(service)
	reaching := &reach.Server{}
	server := &stream.Server{Token: "secret", Handle: func(ctx context.Context, st *stream.Stream) { reaching.Handle(ctx, st) }}
	return server.Serve(context.Background(), agents)
}

// serveBytes reads what comes and confirms it, after the first byte, which asks for
// bytes instead if it is 'd'.
func serveBytes(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			var first [1]byte
			if _, err := io.ReadFull(conn, first[:]); err != nil {
				return
			}
			if first[0] == 'd' {
				buf := make([]byte, 256<<10)
				for range bulk / len(buf) {
					if _, err := conn.Write(buf); err != nil {
						return
					}
				}
				return
			}
			_, _ = io.Copy(io.Discard, conn)
			_, _ = conn.Write(first[:])
		}()
	}
}

const bulk = 1 << 30

// BenchmarkBulk carries 1 GiB as bight run does, but for the namespaces and the API
// server, and tells how much memory that takes: the budget is 100 MB for all of the
// process, of which 40 MB is the program itself.
func BenchmarkBulk(b *testing.B) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	agent := exec.CommandContext(ctx, os.Args[0])
	agent.Env = append(os.Environ(), "BE=agent")
	out, err := agent.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { cancel(); _ = agent.Wait() }()
	var sessions, service string
	if _, err := fmt.Fscan(out, &sessions, &service); err != nil {
		b.Fatal(err)
	}
	client := &stream.Client{Token: "secret", Dial: func(ctx context.Context) (io.ReadWriteCloser, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", sessions)
	}}
	sess, err := client.Connect(ctx)
	if err != nil {
		b.Fatal(err)
	}
	defer sess.Close()
	dialer := &reach.Dialer{Open: sess}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := dialer.DialContext(ctx, "tcp", service)
			if err != nil {
				b.Error(err)
				return
			}
			go splice.Conns(ctx, conn, far)
		}
	}()
	for _, way := range []string{"up", "down"} {
		b.Run(way, func(b *testing.B) {
			b.SetBytes(bulk)
			for b.Loop() {
				carry(b, ln.Addr().String(), way)
			}
			report(b)
		})
	}
}

// carry is the command, in a process of its own as in life.
func carry(b *testing.B, addr, way string) {
	b.Helper()
	script := fmt.Sprintf("exec 3<>/dev/tcp/%s; ", strings.Replace(addr, ":", "/", 1))
	if way == "up" {
		script += fmt.Sprintf("printf u >&3; head -c %d /dev/zero >&3", bulk)
	} else {
		script += "printf d >&3; cat <&3 >/dev/null"
	}
	if out, err := exec.Command("bash", "-c", script).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
}

func report(b *testing.B) {
	b.Helper()
	samples := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}, {Name: "/gc/heap/live:bytes"},
		{Name: "/gc/heap/goal:bytes"},
	}
	metrics.Read(samples)
	mb := func(i int) float64 { return float64(samples[i].Value.Uint64()) / 1e6 }
	b.ReportMetric(mb(0)-mb(1), "MB-held")
	b.ReportMetric(mb(2), "MB-live")
	b.ReportMetric(mb(3), "MB-goal")
}
