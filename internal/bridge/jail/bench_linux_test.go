package jail

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkRunTrue is the whole life of a jail whose command does nothing.
func BenchmarkRunTrue(b *testing.B) {
	c := newCluster(b)
	for b.Loop() {
		if got := run(b, c.config("true")); got.Code != 0 {
			b.Fatal(got)
		}
	}
}

// BenchmarkSetup is the time until a command that does nothing is started.
func BenchmarkSetup(b *testing.B) {
	c := newCluster(b)
	var total time.Duration
	for b.Loop() {
		began := time.Now()
		j, err := Start(b.Context(), c.config("true"))
		if err != nil {
			b.Fatal(err)
		}
		total += time.Since(began)
		if _, err := j.Wait(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(total.Microseconds())/float64(b.N), "µs/start")
}

// BenchmarkFlow is a flow of the command to an echo server of this process, and
// the same over plain loopback.
func BenchmarkFlow(b *testing.B) {
	c := newCluster(b)
	measure := func(b *testing.B, to string, jailed bool, role string, unit string, args ...string) {
		for b.Loop() {
			var text string
			if jailed {
				got := run(b, c.role(role, append([]string{to}, args...)...))
				text = got.Out + got.Err
			} else {
				text = plain(b, to, role, args)
			}
			n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil {
				b.Fatal(text, err)
			}
			b.ReportMetric(n, unit)
		}
	}
	sink := newSink(b)
	for _, jailed := range []bool{false, true} {
		name, echo, bulk := "plain", c.tcp, sink
		if jailed {
			name, echo = "jail", echo4
			bulk = HostName + sink[strings.LastIndex(sink, ":"):]
		}
		b.Run(name+"/rtt", func(b *testing.B) { measure(b, echo, jailed, "rtt", "ns/round-trip") })
		b.Run(name+"/bulk", func(b *testing.B) { measure(b, bulk, jailed, "bulk", "bytes/s", strconv.Itoa(1<<30)) })
	}
}

// plain runs a role in this network.
func plain(b *testing.B, to, role string, args []string) string {
	b.Helper()
	out, err := roleCommand(role, append([]string{to}, args...)).CombinedOutput()
	if err != nil {
		b.Fatal(fmt.Errorf("%s: %w", out, err))
	}
	return string(out)
}

func roleCommand(role string, args []string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "JAIL_TEST_ROLE="+role)
	return cmd
}

// newSink is a server that reads all there is.
func newSink(b *testing.B) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				buf := make([]byte, 256<<10)
				for {
					if _, err := conn.Read(buf); err != nil {
						break
					}
				}
				_ = conn.Close()
			}()
		}
	}()
	return ln.Addr().String()
}
