package steer

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// scripted is an app that answers whatever it is asked with the same bytes, and then
// closes the connection.
type scripted struct {
	addr string

	mu     sync.Mutex
	answer []byte
	got    [][]byte // what has come, by connection
	open   int
	idle   *sync.Cond
}

func newScripted(t testing.TB) *scripted {
	ln := listen(t)
	s := &scripted{addr: ln.Addr().String()}
	s.idle = sync.NewCond(&s.mu)
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			at, answer := len(s.got), s.answer
			s.got = append(s.got, nil)
			s.open++
			s.mu.Unlock()
			go func() {
				got := s.serve(nc, answer)
				s.mu.Lock()
				defer s.mu.Unlock()
				s.got[at] = got
				s.open--
				s.idle.Broadcast()
			}()
		}
	}()
	return s
}

// serve answers as soon as a request has come whole, or all that comes.
func (s *scripted) serve(nc net.Conn, answer []byte) (got []byte) {
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(limit))
	b := make([]byte, 4<<10)
	for !asksWhole(got) {
		n, err := nc.Read(b)
		got = append(got, b[:n]...)
		if err != nil {
			break
		}
	}
	_, _ = nc.Write(answer)
	return got
}

// asksWhole says whether p is a request with all of its body.
func asksWhole(p []byte) bool {
	r, err := parseRequest(p)
	if err != nil {
		return false
	}
	_, _ = r.body.take(p[r.size:])
	return r.body.done()
}

// said is what a client has seen, and what its app has.
type said struct {
	client []byte
	cut    bool
	apps   []byte // of all connections
}

// exchange sends a request to a door, and returns what became of it.
func (s *scripted) exchange(t *testing.T, door string, p, answer []byte) said {
	t.Helper()
	s.mu.Lock()
	s.answer, s.got = answer, nil
	s.mu.Unlock()
	nc, err := net.Dial("tcp", door)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(limit))
	_, _ = nc.Write(p)
	b, err := io.ReadAll(nc)
	if late, ok := errors.AsType[net.Error](err); ok && late.Timeout() {
		t.Fatalf("%q is never answered", p)
	}
	_ = nc.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.open > 0 {
		s.idle.Wait()
	}
	return said{client: b, cut: err != nil, apps: bytes.Join(s.got, []byte("\n--\n"))}
}

// FuzzRecord has a door that keeps what passes by do with any request and any answer
// exactly what one does that keeps nothing, here and on the way to another pod.
func FuzzRecord(f *testing.F) {
	const most = 16
	ask := "/ HTTP/1.1\r\nHost: cart\r\n"
	for _, p := range []string{
		"GET " + ask + "\r\n", "HEAD " + ask + "\r\n", "GET " + ask + "Bight-Carried: 1\r\nX-Y: \xff\x80\r\n\r\n",
		"POST " + ask + "Content-Length: 40\r\n\r\n" + strings.Repeat("0123456789", 4),
		"POST " + ask + "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n3;x=y\r\nabc\r\n0\r\nTrailer: z\r\n\r\n",
		"GET " + ask + "Upgrade: websocket\r\n\r\n", "GET http://else/ HTTP/1.0\r\n\r\n",
	} {
		for _, q := range []string{
			"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n01234567890123456789\r\n0\r\nA: b\r\n\r\n",
			"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 503 Busy\r\n\r\nuntil the end", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x00", "nothing of the sort", "",
			"HTTP/1.1 204 None\r\nX: \xff\r\n\r\nmore", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut",
		} {
			f.Add([]byte(p), []byte(q))
		}
	}
	type pair struct {
		app  *scripted
		v    *versions
		from string
	}
	open := func(weight Weight, record *Record) pair {
		app := newScripted(f)
		v := newVersions(f, app.addr, app.addr)
		v.stable.door.Outcome = func(o *Outcome) {
			if p := o.Pair; p != nil && (len(p.Body.Bytes) > most || p.Answer != nil && len(p.Answer.Body.Bytes) > most) {
				f.Errorf("more is kept than was asked for: %+v", p)
			}
		}
		v.set(f, v.split(weight, func(s *Split) { s.Record = record }))
		return pair{app, v, v.stable.addr}
	}
	doors := map[string][2]pair{}
	for name, weight := range map[string]Weight{"here": 0, "carried": All} {
		doors[name] = [2]pair{open(weight, nil), open(weight, &Record{Body: most, Every: 1})}
	}
	f.Fuzz(func(t *testing.T, p, q []byte) {
		r, err := parseRequest(p)
		if err != nil {
			return // nobody decides about it
		}
		n, err := r.body.take(p[r.size:])
		if err != nil || !r.body.done() {
			return
		}
		// The door is to end the connection by itself.
		first, rest, _ := bytes.Cut(p[:r.size+n], []byte("\r\n"))
		p = append(append(bytes.Clone(first), "\r\nConnection: close\r\n"...), rest...)
		if !asksWhole(p) {
			return
		}
		for name, d := range doors {
			without := d[0].app.exchange(t, d[0].from, p, q)
			with := d[1].app.exchange(t, d[1].from, p, q)
			a, b := without.client, with.client
			if without.cut || with.cut { // then as much as has come
				short := min(len(a), len(b))
				a, b = a[:short], b[:short]
			}
			if !bytes.Equal(a, b) {
				t.Errorf("%s: %q is answered %q, and with a record %q", name, p, a, b)
			}
			if !bytes.Equal(without.apps, with.apps) {
				t.Errorf("%s: of %q the app gets %q, and with a record %q", name, p, without.apps, with.apps)
			}
		}
	})
}
