package supervisor

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/bightdev/bight/cluster/internal/spec"
)

const (
	socksHello = "\x05\x02\x00\x02"
	socksLogin = "\x01\x05bight\x06secret"
	socksToPod = "\x05\x01\x00\x01\x0a\x2a\x01\x07\x0f\xa0" // 10.42.1.7:4000
	socksIsIn  = "\x05\x02\x01\x00"
	socksDone  = "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
)

// podsDoor runs the way to the pods of which there is one, at 10.42.1.7:4000; pod is
// where that listens.
func podsDoor(t *testing.T) (at string, pod net.Listener) {
	t.Helper()
	s := &Supervisor{Log: quiet(), Cluster: &spec.Cluster{PodsSecret: "secret"}}
	ctx, cancel := context.WithCancel(context.Background())
	door, pod := listen(t), listen(t)
	s.accept(ctx, door, func(outer net.Conn) {
		s.carryToPod(ctx, outer, func(ctx context.Context, address string) (net.Conn, error) {
			if address != "10.42.1.7:4000" {
				return nil, errors.New("no route to " + address)
			}
			return new(net.Dialer).DialContext(ctx, "tcp", pod.Addr().String())
		})
	})
	t.Cleanup(func() {
		cancel()
		s.work.Wait()
	})
	return door.Addr().String(), pod
}

func TestTheWayToThePodsCarriesBothWays(t *testing.T) {
	at, pod := podsDoor(t)
	outer, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer outer.Close()
	if _, err := io.WriteString(outer, socksHello+socksLogin+socksToPod+"question"); err != nil {
		t.Fatal(err)
	}
	inner, err := pod.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	question := make([]byte, len("question"))
	if _, err := io.ReadFull(inner, question); err != nil || string(question) != "question" {
		t.Errorf("in the pod: %q, %v", question, err)
	}
	if _, err := io.WriteString(inner, "answer"); err != nil {
		t.Fatal(err)
	}
	inner.Close()
	want := socksIsIn + socksDone + "answer"
	if got, err := io.ReadAll(outer); err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestTheWayToThePodsLeadsNowhereElse(t *testing.T) {
	at, _ := podsDoor(t)
	for _, tt := range []struct{ name, say, want string }{
		{"no password", "\x05\x01\x00", "\x05\xff"},
		{"a wrong password", socksHello + "\x01\x05bight\x05guess" + socksToPod, "\x05\x02\x01\x01"},
		{"an empty password", socksHello + "\x01\x05bight\x00" + socksToPod, "\x05\x02\x01\x01"},
		{"another user", socksHello + "\x01\x04root\x06secret" + socksToPod, "\x05\x02\x01\x01"},
		{"a name", socksHello + socksLogin + "\x05\x01\x00\x03\x04cart\x00\x50", socksIsIn + "\x05\x08"},
		{"an address of this machine", socksHello + socksLogin + "\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50", socksIsIn + "\x05\x02"},
		{"a node's address", socksHello + socksLogin + "\x05\x01\x00\x01\x0a\x29\x00\x0b\x19\x2b", socksIsIn + "\x05\x02"},
		{"a Service's address", socksHello + socksLogin + "\x05\x01\x00\x01\x0a\x2b\x00\x01\x01\xbb", socksIsIn + "\x05\x02"},
		{"IPv6", socksHello + socksLogin + "\x05\x01\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x50", socksIsIn + "\x05\x02"},
		{"port 0", socksHello + socksLogin + "\x05\x01\x00\x01\x0a\x2a\x01\x07\x00\x00", socksIsIn + "\x05\x02"},
		{"another command", socksHello + socksLogin + "\x05\x02\x00\x01\x0a\x2a\x01\x07\x0f\xa0", socksIsIn + "\x05\x07"},
		{"a pod that is not there", socksHello + socksLogin + "\x05\x01\x00\x01\x0a\x2a\x01\x08\x0f\xa0", socksIsIn + "\x05\x04"},
		{"HTTP", "CONNECT 10.42.1.7:4000 HTTP/1.1\r\n\r\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, tt.say); err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(conn) // a reset when it has not read everything
			if len(got) > len(tt.want) {
				got = got[:len(tt.want)]
			}
			if string(got) != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
