// Command queue hands out jobs and counts who has taken them. When it is told to, it
// asks packer without pause and counts the answers.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"strings"
	"sync"
	"time"
)

// counts is what has come.
type counts struct {
	Taken    map[string]int // jobs, by QUEUE/WHO
	Answered map[string]int // requests, by who answered
	Failed   int
	Errors   []string // the first of them
	Slowest  float64  // milliseconds of a request
}

type queue struct {
	mu     sync.Mutex
	counts counts
}

func main() {
	q := &queue{counts: counts{Taken: map[string]int{}, Answered: map[string]int{}}}
	http.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("/take", func(_ http.ResponseWriter, r *http.Request) {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.counts.Taken[r.FormValue("queue")+"/"+r.FormValue("who")]++
	})
	http.HandleFunc("/counts", func(w http.ResponseWriter, _ *http.Request) {
		q.mu.Lock()
		defer q.mu.Unlock()
		_ = json.NewEncoder(w).Encode(q.counts)
	})
	var asking sync.WaitGroup
	stop := func() {}
	http.HandleFunc("/start", func(http.ResponseWriter, *http.Request) {
		var ctx context.Context
		ctx, stop = context.WithCancel(context.Background())
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: 20 * time.Second}
		for range 8 {
			asking.Go(func() { q.ask(ctx, client) })
		}
	})
	http.HandleFunc("/stop", func(http.ResponseWriter, *http.Request) {
		stop()
		asking.Wait()
	})
	log.Fatal(http.ListenAndServe(":8081", nil))
}

// ask asks 50 times a second until ctx ends.
func (q *queue) ask(ctx context.Context, client *http.Client) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		began := time.Now()
		who, err := post(client)
		took := time.Since(began)
		q.mu.Lock()
		if err != nil {
			q.counts.Failed++
			if len(q.counts.Errors) < 5 {
				q.counts.Errors = append(q.counts.Errors, err.Error())
			}
		} else {
			q.counts.Answered[who]++
			q.counts.Slowest = max(q.counts.Slowest, float64(took.Microseconds())/1000)
		}
		q.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// post makes a request that must not be repeated by anybody.
func post(client *http.Client) (who string, err error) {
	response, err := client.Post("http://packer:8080/", "text/plain", strings.NewReader("a parcel"))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status + " " + string(b))
	}
	who, _, _ = strings.Cut(string(b), " ")
	return who, err
}
