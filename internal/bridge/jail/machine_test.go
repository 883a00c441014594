package jail

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
)

func TestAProcessHereMayListenAtEitherLoopback(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		port := uint16(ln.Addr().(*net.TCPAddr).Port)
		conn, err := DialMachine(t.Context(), "tcp", port)
		if err != nil {
			t.Errorf("%s: %v", at, err)
			continue
		}
		_ = conn.Close()
		_ = ln.Close()
		if _, err := DialMachine(t.Context(), "tcp", port); !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("nobody listens: %v", err)
		}
	}
}
