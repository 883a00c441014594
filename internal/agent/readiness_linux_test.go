package agent

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

func TestOnlyTheFirstQuestionWaitsForTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		serving, replaced := true, false
		up := make(chan struct{})
		r := &readiness{
			ready: func() <-chan struct{} { return up }, ask: func(context.Context) bool { return serving },
			replaced: func() bool { return replaced },
		}
		ask := func() (code int, took time.Duration) {
			began := time.Now()
			w := httptest.NewRecorder()
			r.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
			return w.Code, time.Since(began)
		}
		want := func(what string, code int, took time.Duration) {
			t.Helper()
			if gotCode, gotTook := ask(); gotCode != code || gotTook != took {
				t.Errorf("%s: got %d after %s, want %d after %s", what, gotCode, gotTook, code, took)
			}
		}
		want("it never comes up", 503, firstReady)
		time.AfterFunc(3*time.Second, func() { close(up) })
		want("it comes up", 200, 3*time.Second)
		want("it is up", 200, 0)
		serving = false
		want("it says no", 503, 0)
		up = make(chan struct{})
		want("it is another one", 503, 0)
		replaced = true
		want("somebody replaces it", 200, 0)
		serving, replaced = true, false
		time.AfterFunc(2*time.Second, func() { close(up) })
		want("they have left", 200, 2*time.Second)
		want("it is up again", 200, 0)
	})
}
