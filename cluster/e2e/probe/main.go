// Command probe runs in the pods of the end-to-end tests and says what it sees
// from there: one HTTP endpoint per question.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const patience = 4 * time.Second

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	failed := make(chan error, 1)
	server := &http.Server{Addr: ":8080", Handler: handler(), ReadHeaderTimeout: patience}
	go func() { failed <- server.ListenAndServe() }()
	select {
	case <-stop:
	case err := <-failed:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// answer is what every endpoint returns.
type answer struct {
	Value    string   `json:"value,omitempty"`
	Values   []string `json:"values,omitempty"`
	NotFound bool     `json:"notFound,omitempty"`
	Error    string   `json:"error,omitempty"`
}

func handler() http.Handler {
	mux := http.NewServeMux()
	for path, ask := range map[string]func(r *http.Request) answer{
		"/name":   func(*http.Request) answer { name, err := os.Hostname(); return reply(name, err) },
		"/lookup": lookup, "/get": get, "/dial": dial, "/write": write, "/read": read,
	} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			_ = json.NewEncoder(w).Encode(ask(r))
		})
	}
	return mux
}

func reply(value string, err error) answer {
	if err != nil {
		return answer{Error: err.Error()}
	}
	return answer{Value: value}
}

func lookup(r *http.Request) answer {
	addresses, err := net.DefaultResolver.LookupHost(r.Context(), r.FormValue("name"))
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return answer{Error: err.Error(), NotFound: dns.IsNotFound}
	}
	return answer{Values: addresses}
}

func get(r *http.Request) answer {
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(r.FormValue("url"))
	if err != nil {
		return reply("", err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	return reply(string(b), err)
}

func dial(r *http.Request) answer {
	conn, err := net.DialTimeout("tcp", r.FormValue("address"), patience)
	if err == nil {
		err = conn.Close()
	}
	return reply("connected", err)
}

func write(r *http.Request) answer {
	return reply("written", os.WriteFile(r.FormValue("file"), []byte(r.FormValue("data")), 0o600))
}

func read(r *http.Request) answer {
	b, err := os.ReadFile(r.FormValue("file"))
	return reply(string(b), err)
}
