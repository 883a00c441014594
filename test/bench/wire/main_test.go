package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
)

func TestEachPortDoesItsWorkAgainAndAgain(t *testing.T) {
	const bytesAsked = 600_001 // more than a buffer, and not a multiple
	count := binary.BigEndian.AppendUint64(nil, bytesAsked)
	for name, test := range map[string]struct {
		serve    func(net.Conn) error
		question []byte
		answer   int
	}{
		"echo":    {echo, []byte("hello"), 5},
		"swallow": {swallow, append(count[:8:8], make([]byte, bytesAsked)...), 1},
		"send":    {send, count, bytesAsked},
	} {
		here, there := net.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- test.serve(there) }()
		for range 3 {
			if _, err := here.Write(test.question); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			answer := make([]byte, test.answer)
			if _, err := io.ReadFull(here, answer); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if name == "echo" && !bytes.Equal(answer, test.question) {
				t.Errorf("echo of %q is %q", test.question, answer)
			}
		}
		here.Close()
		if err := <-ended; err == nil {
			t.Errorf("%s does not say that the client has gone", name)
		}
	}
}
