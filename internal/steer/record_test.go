package steer

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// faulty answers in its own way where the stable version does as it should.
func faulty(name string, broken bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Served-By", name)
		switch {
		case r.URL.Path == "/cut" && broken:
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case r.URL.Path != "/fine" && broken:
			w.WriteHeader(500)
		}
		fmt.Fprintf(w, "%s says ", name)
		_ = http.NewResponseController(w).Flush() // in HTTP/1 it is chunked
		fmt.Fprintf(w, "%s to %q", r.URL.RequestURI(), b)
	}
}

func TestPairsAreKeptOfWhatWentWrong(t *testing.T) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2"} {
		t.Run(proto, func(t *testing.T) {
			up, hc := serve, http.DefaultClient
			if proto == "HTTP/2" {
				up = serveHTTP2
				hc, _ = clientHTTP2(t)
			}
			v := newVersions(t, up(t, faulty("stable", false)), up(t, faulty("canary", true)))
			v.set(t, v.split(All, func(s *Split) { s.Record = &Record{Body: 64} }))
			n := 0
			ask := func(method, target, body string) *Pair {
				t.Helper()
				r, err := http.NewRequest(method, "http://"+v.stable.addr+target, io.MultiReader(strings.NewReader(body))) // of unknown length
				if err != nil {
					t.Fatal(err)
				}
				if body == "" {
					r.Body = nil
				}
				r.Header.Set("X-Mine", "yes")
				if resp, err := hc.Do(r); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
				n++
				return v.outcomes.nth(t, n-1).Pair
			}

			p := ask("POST", "/buy?id=7", "two of them")
			if p == nil || p.Answer == nil {
				t.Fatalf("nothing was kept: %+v", p)
			}
			want(t, "request", fmt.Sprint(p.Method, " ", p.Target, " ", p.Header.Get("X-Mine"), " ", string(p.Body.Bytes), " ", p.Body.Cut, " ", p.Host == v.stable.addr),
				"POST /buy?id=7 yes two of them false true")
			want(t, "answer", fmt.Sprint(p.Answer.Status, " ", p.Answer.Header.Get("X-Served-By"), " ", string(p.Answer.Body.Bytes), " ", p.Answer.Body.Cut),
				`500 canary canary says /buy?id=7 to "two of them" false`)
			if p.Again != nil {
				t.Error("a POST could be asked again")
			}
			if _, has := p.Header[Carried]; has {
				t.Error("what doors add was kept")
			}

			p = ask("GET", "/broken", "")
			a, err := p.Again(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			want(t, "stable", fmt.Sprint(a.Status, " ", string(a.Body.Bytes)), `200 stable says /broken to ""`)

			p = ask("POST", "/long", strings.Repeat("x", 1000))
			want(t, "long", fmt.Sprint(len(p.Body.Bytes), p.Body.Cut, p.Answer.Status, p.Answer.Body.Cut), fmt.Sprint(len(p.Body.Bytes), true, 500, true))
			if len(p.Body.Bytes) > 64 || len(p.Answer.Body.Bytes) > 64 {
				t.Errorf("%d and %d bytes are kept", len(p.Body.Bytes), len(p.Answer.Body.Bytes))
			}

			p = ask("GET", "/cut", "")
			want(t, "cut", fmt.Sprint(p.Answer.Status, string(p.Answer.Body.Bytes), p.Answer.Body.Cut), fmt.Sprint(200, "half", proto == "HTTP/1.1"))

			if p := ask("GET", "/fine", ""); p != nil {
				t.Errorf("of what went well this was kept: %+v", p)
			}
		})
	}
}

func TestSomeOfWhatWentWellIsKept(t *testing.T) {
	v := newVersions(t, serve(t, faulty("stable", false)), serve(t, faulty("canary", false)))
	v.set(t, v.split(All/2, func(s *Split) { s.Record = &Record{Body: 1 << 10, Every: 10} }))
	kept := map[string]int{}
	const all = 200
	for i := range all {
		c := dial(t, v.stable.addr)
		c.send(t, "GET /fine HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n")
		_, _ = io.ReadAll(c)
		if o := v.outcomes.nth(t, i); o.Pair != nil {
			kept[o.Version]++
			if !strings.HasPrefix(string(o.Pair.Answer.Body.Bytes), o.Version+" says") {
				t.Errorf("of %s was kept %q", o.Version, o.Pair.Answer.Body.Bytes)
			}
		}
	}
	// Either had about a half of them, and one in ten is kept.
	if kept["stable"] < 5 || kept["canary"] < 5 || kept["stable"]+kept["canary"] > all/10+2 {
		t.Errorf("kept are %v", kept)
	}
}

func TestSlowOnesAreKept(t *testing.T) {
	wait := make(chan struct{})
	hung := func(s *Split) { s.Slow = []time.Duration{20 * time.Millisecond, 30 * time.Millisecond} }
	slow := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-wait
		}
		_, _ = io.WriteString(w, "at last")
	}
	v := newVersions(t, serve(t, http.HandlerFunc(slow)), unused(t))
	v.set(t, v.split(0, func(s *Split) { s.Record = &Record{Body: 64, Slow: 50 * time.Millisecond} }, hung))
	time.AfterFunc(60*time.Millisecond, func() { close(wait) })
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for _, path := range []string{"/slow", "/quick"} {
		r, _ := http.NewRequestWithContext(ctx, "GET", "http://"+v.stable.addr+path, nil)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if path == "/slow" { // it is told while it is under way, too
			if o := v.outcomes.nth(t, 1); !o.Running || o.Pair == nil || o.Pair.Target != path || o.Pair.Answer != nil {
				t.Errorf("of one that hangs was told %+v", o)
			}
		}
		eventually(t, "it has ended", func() bool {
			all := v.outcomes.list()
			return len(all) > 0 && !all[len(all)-1].Running && (path == "/slow" || all[len(all)-1].ID == 2)
		})
		all := v.outcomes.list()
		o := all[len(all)-1]
		if path == "/slow" && (o.Pair == nil || string(o.Pair.Answer.Body.Bytes) != "at last") {
			t.Errorf("of a slow one was kept %+v", o.Pair)
		}
		if path == "/quick" && o.Pair != nil && o.Latency < 50*time.Millisecond {
			t.Error("a quick one was kept")
		}
	}
}
