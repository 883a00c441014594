package steer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// toVersion sends a request to the version that a split decides for, to the app if
// there is no split.
func (s *streams) toVersion(w http.ResponseWriter, in *incoming, seen Request, mark string) {
	var dec *decision
	if !seen.carried {
		dec = s.c.d.decide(seen, s.c.remote)
	}
	if dec == nil {
		if s.toApp(w, in, mark, nil) != nil && (mark == "" || in.r.Context().Err() != nil) {
			panic(http.ErrAbortHandler)
		}
		return
	}
	defer dec.over()
	var resp *http.Response
	var err error
	ended := false
	defer func() { // an answer that breaks off ends in a panic
		dec.end(in.r, resp, err, ended)
	}()
	if c, whole := s.mirrorTo(in, dec); c != nil {
		defer func() { c.over(whole()) }()
	}
	tape := dec.record(dec.flight, dec.to, s.c.client.conn.LocalAddr(), nil, in.r)
	if tape != nil {
		in.body = &asking{in.body, tape}
	}
	in.give = dec.give
	answered := func(r *http.Response) {
		resp = r
		dec.flight.answer(r.StatusCode, in.said)
		tape.hear(dec.flight, r)
	}
	for !dec.local() {
		if err = s.toPeer(w, in, dec, answered); err == nil || in.r.Context().Err() != nil {
			ended = err == nil
			return // or nobody listens
		}
		switch sent := !errors.Is(err, errNoPod); {
		case sent:
			s.c.d.counts.lost.Add(1)
			if errors.Is(err, errRefused) {
				dec.unheard()
			}
			inPlace(w, in.r, http.StatusBadGateway, splitMarker, err.Error(), dec.whyLost(err.Error())+".")
			return
		case !dec.fall():
			inPlace(w, in.r, http.StatusServiceUnavailable, splitMarker, err.Error(), dec.whyLost(err.Error())+".")
			return
		}
	}
	dec.ask(netip.AddrPort{})
	if in.carry = false; dec.fell {
		in.give = ""
	}
	err = s.toApp(w, in, mark, answered)
	if ended = err == nil; err != nil && (mark == "" || in.r.Context().Err() != nil) {
		panic(http.ErrAbortHandler)
	}
}

// toPeer sends a request to a pod of another version. After an error nothing was
// answered; it is errNoPod if the last of its pods took no connection.
func (s *streams) toPeer(w http.ResponseWriter, in *incoming, dec *decision, answered func(*http.Response)) error {
	if err := in.retain(); err != nil {
		return err
	}
	a := &dec.s.arms[dec.to]
	why := errNoPod
	for {
		to, t, ok := s.peer(dec, a)
		if !ok {
			return why
		}
		in.carry = true
		dec.ask(to)
		dec.flight.seeks()
		in.got = dec.flight.found
		err := s.send(in.r.Context(), t, w, in, "", func(r *http.Response) {
			a.reached(to)
			answered(r)
		})
		if err == nil || in.r.Context().Err() != nil {
			return err
		}
		why = fmt.Errorf("%w: %w", errNoPod, err)
		refused := errors.Is(err, errRefused)
		if refused || !in.connected.Load() {
			dec.unreachable(a, to, err)
		} else {
			a.reached(to)
		}
		if in.connected.Load() && !in.again(refused) {
			return fmt.Errorf("the pod at %s has not answered: %w", to, err)
		}
	}
}

// peer returns where the client's requests for a version go: to the same pod as the
// last, as long as that is one of its addresses and answers.
func (s *streams) peer(dec *decision, a *arm) (to netip.AddrPort, t *http.Transport, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, t := range s.peers {
		i, known := a.known[at]
		switch {
		case known && len(dec.tried) == 0 && !a.resting(i) && !dec.shed():
			dec.tried = append(dec.tried, at)
			return at, t, true
		case !known && !dec.s.knows(at):
			t.CloseIdleConnections() // the pod is gone; what is under way goes on
			delete(s.peers, at)
		}
	}
	if to, ok = dec.address(); !ok {
		return to, nil, false
	}
	if t = s.peers[to]; t == nil {
		t = newTransport(func(context.Context) (net.Conn, error) { // another request may use it
			nc, err := s.c.d.dialPeer(s.ctx, to)
			if err == nil {
				a.met(to)
			}
			return nc, err
		})
		if s.peers == nil {
			s.peers = map[netip.AddrPort]*http.Transport{}
		}
		s.peers[to] = t
	}
	return to, t, true
}

// knows says whether an address is one of the split.
func (s *splitting) knows(at netip.AddrPort) bool {
	for i := range s.arms {
		if _, ok := s.arms[i].known[at]; ok {
			return true
		}
	}
	return false
}

// end tells how a request went. An answer is whole if it has ended.
func (dec *decision) end(r *http.Request, resp *http.Response, err error, ended bool) {
	f := dec.flight
	why := ""
	if err != nil {
		why = err.Error()
	}
	cancelled := !ended && r.Context().Err() != nil
	broken := !ended
	switch {
	case cancelled:
		why = "the client has gone"
	case broken && why == "":
		why = "the answer broke off"
	}
	if isCall(r.Header) || resp != nil && isCall(resp.Header) {
		status := statusOf(resp)
		f.call(status)
		if ended && status < 0 {
			broken, why = true, "the call has ended without a status"
		}
	}
	f.end(broken, cancelled, why)
}

func isCall(h http.Header) bool {
	return strings.HasPrefix(h.Get("Content-Type"), "application/grpc")
}

// statusOf returns the status of a call, -1 if it has none.
func statusOf(resp *http.Response) int {
	if resp == nil {
		return -1
	}
	s := resp.Trailer.Get("Grpc-Status")
	if s == "" {
		s = resp.Header.Get("Grpc-Status") // there are trailers only
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return -1
	}
	return int(n)
}
