// Package jobs takes jobs off the queue.
package jobs

import (
	"net/http"
	"net/url"
	"os"
	"time"
)

// Who is the name under which this process takes jobs.
func Who() string {
	if who := os.Getenv("WHO"); who != "" {
		return who
	}
	host, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return host
}

// Take takes jobs for ever.
func Take(queue string) {
	for {
		response, err := http.Get("http://queue:8081/take?" + url.Values{"queue": {queue}, "who": {Who()}}.Encode())
		if err == nil {
			_ = response.Body.Close()
		}
		time.Sleep(20 * time.Millisecond) // a job takes as long
	}
}
