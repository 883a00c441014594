package main

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// Not every node knows at once that a pod ends: who still comes is served, and told to
// come again on another connection.
func TestClientsAreLetGoAtTheEnd(t *testing.T) {
	p := newPod(t)
	door, ready := freePort(t), freePort(t)
	p.flags = []string{"--door", door + "=" + p.port + "/http", "--ready", "tcp:" + p.port, "--ready-at", ready}
	p.start()
	p.isReady(ready)
	at := "http://127.0.0.1:" + door + "/"
	client := &http.Client{Transport: &http.Transport{}}
	ask := func() (ends bool, err error) {
		response, err := client.Get(at)
		if err != nil {
			return false, err
		}
		defer response.Body.Close()
		return response.Close, nil
	}
	if ends, err := ask(); err != nil || ends {
		t.Fatalf("before: the connection ends is %v, %v", ends, err)
	}
	must(t, p.cmd.Process.Signal(syscall.SIGTERM))
	eventually(t, "clients are told to go", func() bool {
		ends, err := ask()
		if err != nil {
			t.Errorf("while the pod ends: %v", err)
			return true
		}
		return ends
	})
	eventually(t, "the port is closed", func() bool { return strings.Contains(get(at), "refused") })
	_ = p.cmd.Wait()
}
