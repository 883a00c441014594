// Command traffic is both ends of the requests that releases are measured with, each
// in a pod. `traffic serve` answers, as the version in WHO, with errors if BROKEN is
// set, or for as many of a thousand requests as FLAKY says. `traffic load` asks, as it is told at port 8081, and keeps what became of every
// request.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) != 2 || os.Args[1] != "serve" && os.Args[1] != "load" {
		log.Fatal("usage: traffic serve | traffic load")
	}
	http.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	port := ":8080"
	if os.Args[1] == "serve" {
		http.HandleFunc("/", answer)
	} else {
		port = ":8081"
		l := &loader{}
		http.HandleFunc("/start", l.start)
		http.HandleFunc("/stop", l.stop)
		http.HandleFunc("/compare", compare)
	}
	server := &http.Server{Addr: port}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-asked
		_ = server.Shutdown(context.Background()) // what is under way is answered
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	<-ended
}

const whoHeader = "X-Who"

func answer(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set(whoHeader, os.Getenv("WHO"))
	flaky, _ := strconv.Atoi(os.Getenv("FLAKY")) // 0 without
	if os.Getenv("BROKEN") != "" || rand.IntN(1000) < flaky {
		http.Error(w, "this version is broken", http.StatusInternalServerError)
		return
	}
	_, _ = io.WriteString(w, "hello\n")
}

// sample is what became of one request.
type sample struct {
	At   int64  `json:"at"` // when it began, in nanoseconds since 1970
	Took int64  `json:"took"`
	Who  string `json:"who"`
	Why  string `json:"why,omitempty"` // it has failed
}

// loader asks for as long as it is told to.
type loader struct {
	end  context.CancelFunc
	work sync.WaitGroup

	mu  sync.Mutex
	all []sample
}

// start asks url rate times a second, on so many connections.
func (l *loader) start(w http.ResponseWriter, r *http.Request) {
	rate, err := strconv.Atoi(r.FormValue("rate"))
	conns, err2 := strconv.Atoi(r.FormValue("conns"))
	if err := cmp.Or(err, err2); err != nil || l.end != nil {
		http.Error(w, fmt.Sprint("give rate and conns, and end what runs: ", err), http.StatusBadRequest)
		return
	}
	ctx, end := context.WithCancel(context.Background())
	l.end, l.all = end, nil
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: conns}, Timeout: 10 * time.Second}
	for i := range conns {
		l.work.Go(func() {
			l.ask(ctx, client, r.FormValue("url"), time.Second*time.Duration(conns)/time.Duration(rate), i)
		})
	}
}

func (l *loader) ask(ctx context.Context, client *http.Client, url string, every time.Duration, i int) {
	select { // not all at once
	case <-time.After(time.Duration(i) * time.Millisecond):
	case <-ctx.Done():
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for ctx.Err() == nil {
		began := time.Now()
		who, err := get(client, url)
		s := sample{At: began.UnixNano(), Took: int64(time.Since(began)), Who: who}
		if err != nil {
			s.Why = err.Error()
		}
		l.mu.Lock()
		l.all = append(l.all, s)
		l.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func get(client *http.Client, url string) (who string, err error) {
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s", response.Status, response.Header)
	}
	return response.Header.Get(whoHeader), err
}

// stop ends what start began, and tells what became of it.
func (l *loader) stop(w http.ResponseWriter, _ *http.Request) {
	if l.end == nil {
		http.Error(w, "nothing runs", http.StatusBadRequest)
		return
	}
	l.end()
	l.work.Wait()
	l.end = nil
	_ = json.NewEncoder(w).Encode(l.all)
}

// compare asks two URLs in turn, on a connection each, and tells the latencies of
// either in nanoseconds, in order.
func compare(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.FormValue("n"))
	if err != nil {
		http.Error(w, "give n", http.StatusBadRequest)
		return
	}
	urls := []string{r.FormValue("a"), r.FormValue("b")}
	took := make([][]int64, len(urls))
	clients := []*http.Client{{Transport: &http.Transport{}}, {Transport: &http.Transport{}}}
	for range n {
		for i, url := range urls {
			began := time.Now()
			if _, err := get(clients[i], url); err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			took[i] = append(took[i], int64(time.Since(began)))
		}
	}
	for _, t := range took {
		slices.Sort(t)
	}
	_ = json.NewEncoder(w).Encode(took)
}
