// Command packer takes jobs off a queue and answers requests.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"time"

	"example.com/replace/jobs"
)

const version = "first"

func main() {
	go jobs.Take("packer")
	http.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // it is answered anyway
		time.Sleep(5 * time.Millisecond)   // what it has to do
		fmt.Fprintln(w, jobs.Who(), version)
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}
