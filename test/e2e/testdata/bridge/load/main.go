// Command load asks another service for as long as it is told to, and counts the
// answers.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// counts is what has come back.
type counts struct {
	Requests int            // that were answered, streams not included
	Streams  int            // that have come whole
	By       map[string]int // who answered
	Failed   int
	Errors   []string // the first of them
	Slowest  float64  // milliseconds of a request
}

// load is one run.
type load struct {
	client http.Client
	url    string
	work   sync.WaitGroup
	stop   context.CancelFunc

	mu     sync.Mutex
	counts counts
}

func main() {
	var present *load
	http.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("/start", func(w http.ResponseWriter, r *http.Request) {
		present = start(r.FormValue("url"), r.FormValue("echo") != "no")
	})
	http.HandleFunc("/stop", func(w http.ResponseWriter, r *http.Request) {
		present.stop()
		present.work.Wait()
		_ = json.NewEncoder(w).Encode(present.counts)
	})
	http.HandleFunc("/measure", measure)
	log.Fatal(http.ListenAndServe(":8081", nil))
}

// start asks 400 times a second on eight connections, and beside that on two each
// for streams that come and, with echo, for streams that go and come back at once.
func start(url string, echo bool) *load {
	ctx, stop := context.WithCancel(context.Background())
	l := &load{url: url, stop: stop, counts: counts{By: map[string]int{}}}
	l.client.Transport = &http.Transport{MaxIdleConnsPerHost: 16}
	for range 8 {
		l.work.Go(func() {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				l.note(false, l.request)
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		})
	}
	streams := []func() (string, error){l.down, l.down, l.around, l.around}
	if !echo {
		streams = streams[:2]
	}
	for _, ask := range streams {
		l.work.Go(func() {
			for ctx.Err() == nil {
				l.note(true, ask)
			}
		})
	}
	return l
}

func (l *load) note(stream bool, ask func() (string, error)) {
	began := time.Now()
	who, err := ask()
	took := time.Since(began)
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &l.counts
	switch {
	case err != nil:
		c.Failed++
		if len(c.Errors) < 5 {
			c.Errors = append(c.Errors, began.UTC().Format("15:04:05.000 ")+err.Error())
		}
		return
	case stream:
		c.Streams++
	default:
		c.Requests++
		c.Slowest = max(c.Slowest, float64(took.Microseconds())/1000)
	}
	c.By[who]++
}

func read(response *http.Response, err error) (who, body string, _ error) {
	if err != nil {
		return "", "", err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	return response.Header.Get("X-Who"), string(b), err
}

func (l *load) request() (string, error) {
	who, body, err := read(l.client.Get(l.url + "/"))
	if err == nil && !strings.HasPrefix(body, who+" HTTP/1.1 ") {
		err = fmt.Errorf("it answers %q", body)
	}
	return who, err
}

// down reads a stream that lasts for half a second.
func (l *load) down() (string, error) {
	who, body, err := read(l.client.Get(l.url + "/stream?n=50"))
	if n := strings.Count(body, "line "); err == nil && (n != 50 || !strings.HasSuffix(body, "line 49\n")) {
		err = fmt.Errorf("%d lines of 50 have come", n)
	}
	return who, err
}

// around sends a stream that lasts for half a second, and reads it.
func (l *load) around() (string, error) {
	content := []byte(rand.Text() + strings.Repeat("0123456789abcdef", 4<<10))
	r, w := io.Pipe()
	go func() {
		for part := range slices.Chunk(content, 2<<10) {
			time.Sleep(15 * time.Millisecond) // the pace is what is tested
			if _, err := w.Write(part); err != nil {
				return
			}
		}
		_ = w.Close()
	}()
	who, body, err := read(l.client.Post(l.url+"/echo", "application/octet-stream", r))
	_ = r.Close() // ends the writer
	if err == nil && !bytes.Equal([]byte(body), content) {
		err = fmt.Errorf("%d bytes of %d have come back", len(body), len(content))
	}
	return who, err
}

// measure asks two URLs in turn and tells the medians in microseconds.
func measure(w http.ResponseWriter, r *http.Request) {
	urls := []string{r.FormValue("a"), r.FormValue("b")}
	clients := make([]http.Client, len(urls))
	took := make([][]time.Duration, len(urls))
	for i := range clients {
		clients[i].Transport = &http.Transport{}
	}
	for range 2000 {
		for i, url := range urls {
			began := time.Now()
			if _, _, err := read(clients[i].Get(url)); err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			took[i] = append(took[i], time.Since(began))
		}
	}
	var medians []float64
	for _, t := range took {
		slices.Sort(t)
		medians = append(medians, float64(t[len(t)/2].Nanoseconds())/1000)
	}
	_ = json.NewEncoder(w).Encode(medians)
}
