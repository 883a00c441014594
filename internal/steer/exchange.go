package steer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"
	"time"
)

// exchange is one request and its answer, on one connection. Its goroutine alone
// decides; the two that copy bodies report to it.
type exchange struct {
	c    *conn
	d    *delivery
	up   *upstream
	mark string // for the answer's head

	sending   chan error // the request's body is on its way
	returning chan error // the answer's body is
	answer    *answer    // its head has come, and was passed on
	early     bool       // the head was sent before the laptop has said that it takes it
	half      bool       // the client sends no more
	unread    bool       // what follows is not to be read
	farewell  bool       // the client was told to come again on another connection
	interim   bool       // an answer that is not the last was passed on
	ends      bool       // the connection belongs to the two once the answer is whole
	gone      bool       // the client is, or the door ends
	left      bool       // it sent no more, or nonsense, before it was answered
	broken    bool       // the answer broke off
	told      bool       // the outcome is
}

// verdict is what follows from an event.
type verdict int

const (
	goOn verdict = iota
	over         // the connection is
)

// run returns whether another request may follow. A failure says that the client
// has seen nothing of an answer; it comes from laptops only.
func (x *exchange) run(ctx context.Context) (more bool, err error) {
	x.start()
	v := goOn
	for v == goOn && err == nil {
		if x.answer != nil && x.returning == nil && x.sending == nil {
			x.tell()
			return x.finish(ctx), nil
		}
		v, err = x.step(ctx)
	}
	if err != nil {
		x.withdraw()
		return false, err
	}
	x.tell()
	x.drop()
	return false, nil
}

// tell tells the outcome, if a split has decided about the request.
func (x *exchange) tell() {
	if x.told || x.d.dec == nil {
		return
	}
	x.told = true
	f := x.d.dec.flight
	switch {
	case x.gone, x.left, x.half && x.broken:
		f.end(false, true, "the client has gone")
	case !f.answered:
		f.end(true, false, "the pod has not answered")
	default:
		why := ""
		if x.broken {
			why = "the answer broke off"
		}
		f.end(x.broken, false, why)
	}
}

// head is the head of the request, as its receiver gets it.
func (x *exchange) head() []byte {
	if x.up.peer.IsValid() {
		return carried(x.d.raw)
	}
	return x.d.raw
}

// step waits for one event.
func (x *exchange) step(ctx context.Context) (verdict, error) {
	var fromUp, fromClient, silent, lost <-chan struct{}
	if x.returning == nil {
		fromUp = x.up.watch()
	}
	if x.sending == nil && x.d.body.done() && len(x.c.client.bytes()) == 0 && !x.half {
		fromClient = x.c.client.watch()
	}
	if l := x.up.lease; l != nil && x.answer == nil {
		lost = l.lost
		if !x.up.taken || x.d.repeatable() {
			silent = l.quiet()
		}
	}
	select {
	case <-fromUp:
		x.up.heard()
		return x.hear(ctx)
	case err := <-x.sending:
		x.sending = nil
		return x.sent(ctx, err)
	case err := <-x.returning:
		x.returning = nil
		return x.returned(ctx, err)
	case <-fromClient:
		x.c.client.heard()
		return x.clientSaid(), nil
	case <-silent:
		return over, &failure{x.up.lease.rule.Owner + " is silent", !x.up.taken && !x.early}
	case <-lost:
		return over, &failure{x.up.lease.rule.Owner + " is gone", !x.up.taken && !x.early}
	case <-ctx.Done():
		x.gone = true
		return over, nil
	}
}

// start sends the head, and what is there of the body. A laptop that has not said
// yet whether its handler is there gets no more than the head, and not even that if
// the request can't be done twice.
func (x *exchange) start() {
	now := x.up.lease == nil || x.up.taken
	x.early = !now && idempotent(x.d.method)
	switch {
	case now:
		_, _ = x.up.conn.Write(x.withBody(x.head())) // of an error, what is read tells more
		x.send()
	case x.early:
		_, _ = x.up.conn.Write(x.d.raw)
	}
}

// withBody adds to out what was taken of the body and what is there of it.
func (x *exchange) withBody(out []byte) []byte {
	d, client := x.d, &x.c.client
	if len(d.kept) > 0 {
		out = append(out[:len(out):len(out)], d.kept...)
	}
	if d.body.done() || len(client.bytes()) == 0 {
		return out
	}
	n, _ := d.body.take(client.bytes()) // an error comes again
	if n > 0 {
		d.seen(client.bytes()[:n])
		out = append(out[:len(out):len(out)], client.bytes()[:n]...)
		client.skip(n)
	}
	return out
}

// send sends the rest of the body, if there is one.
func (x *exchange) send() {
	if x.d.body.done() {
		return
	}
	x.c.client.settle()
	var seen func([]byte)
	if x.d.keep.Load() || x.d.copies != nil || !x.d.tape.skips(&x.d.body, x.d.tape.asks()) {
		seen = x.d.seen
	}
	sending := make(chan error, 1)
	x.sending = sending
	go func() { // step, withdraw or drop waits for it
		sending <- relay(x.up.conn, &x.c.client, &x.d.body, seen)
	}()
}

// hear reads what has come from upstream.
func (x *exchange) hear(ctx context.Context) (verdict, error) {
	up := x.up
	if up.lease != nil && !up.taken {
		if err := up.greeted(); err != nil {
			if f, ok := errors.AsType[*failure](err); ok {
				f.unseen = f.unseen || !x.early
			}
			return over, err
		}
		if !up.taken {
			return goOn, nil
		}
		var head []byte
		if !x.early {
			head = x.d.raw
		}
		if out := x.withBody(head); len(out) > 0 {
			_, _ = up.conn.Write(out) // of an error, what is read tells more
		}
		x.send()
		if x.half { // which waited for the request
			closeWrite(up.conn)
		}
	}
	if x.answer != nil { // and the request is not read to its end
		return x.splice(ctx), nil
	}
	for {
		p := up.bytes()
		a, err := parseAnswer(p, x.d.method)
		switch {
		case errors.Is(err, errMore) && up.err == nil:
			return goOn, nil
		case errors.Is(err, errMore) && up.lease != nil:
			return over, &failure{up.lease.rule.Owner + " has not answered: " + ended(up.err).Error(), false}
		case errors.Is(err, errMore) && up.peer.IsValid() && !x.half:
			return over, &unanswered{ended(up.err), x.interim}
		case err != nil:
			x.odd(p, err)
			return x.splice(ctx), nil
		case x.refused(a):
			return over, &unanswered{errRefused, x.interim}
		case a.status >= 200 || a.status == 101:
			return x.reply(ctx, a), nil
		}
		if _, err := x.c.client.conn.Write(p[:a.size]); err != nil {
			return x.clientGone(), nil
		}
		x.interim = true
		up.skip(a.size)
	}
}

// refused says whether an answer is the door's of a pod in which nobody else answers.
func (x *exchange) refused(a *answer) bool {
	if !x.up.peer.IsValid() {
		return false
	}
	said, _ := a.value(Carried)
	_, err := told(said)
	return err != nil
}

// heard is the head of an answer without what is meant for the door, and what that is.
func (x *exchange) heard(head []byte, a *answer) (rest []byte, said string) {
	peer := x.up.peer.IsValid()
	if !peer && x.d.came.IsZero() {
		return head, ""
	}
	said, has := a.value(Carried)
	if has {
		head = uncarried(head)
	}
	if !peer {
		return withField(head, Carried, tell(x.d.came)), ""
	}
	return head, said
}

// odd takes note of an answer that is passed on without being read.
func (x *exchange) odd(p []byte, err error) {
	if errors.Is(err, errMore) || x.d.dec == nil {
		return // it never came
	}
	if status, ok := oddStatus(p); ok {
		x.d.dec.flight.answer(status, "")
	}
}

// oddStatus is the status of an answer that can't be read as a whole; 0 is odd, too.
func oddStatus(p []byte) (status int, ok bool) {
	_, rest, ok := bytes.Cut(p, []byte(" "))
	if !ok || len(rest) < 3 {
		return 0, false
	}
	status, _ = strconv.Atoi(string(rest[:3]))
	return status, true
}

// reply passes on the head of the answer, and what is there of its body.
func (x *exchange) reply(ctx context.Context, a *answer) verdict {
	up := x.up
	x.answer, up.used, x.c.last = a, true, up
	if up.lease != nil {
		up.lease.requests.Add(1)
	}
	p := up.bytes()
	own, said := x.heard(p[:a.size], a)
	head := marked(own, x.mark)
	give := ""
	var keep func([]byte)
	if x.d.dec != nil {
		x.d.dec.flight.answer(a.status, said)
		if up.peer.IsValid() {
			x.d.dec.s.arms[x.d.dec.to].reached(up.peer)
		}
		if x.d.tape.hears(x.d.dec.flight, own, a.status, false) {
			keep = x.d.tape.said
		}
		if give = x.d.dec.give; give != "" && !x.d.dec.fell {
			head = withField(head, "Set-Cookie", give)
		}
	}
	switch x.ends = a.body.kind == bodyRest || !a.lasts() || !x.d.lasts(); {
	case x.ends && x.d.dec != nil && a.status != 101 && x.d.method != "CONNECT":
		// It is read to its end: somebody wants to know about that.
	case x.ends:
		up.skip(a.size)
		if _, err := x.c.client.conn.Write(head); err != nil {
			return x.clientGone()
		}
		return x.splice(ctx)
	}
	if !x.ends && x.c.d.retiring() && len(x.c.client.bytes()) == 0 {
		x.farewell = true
		head = withField(head, "Connection", "close")
	}
	if keep != nil && x.d.tape.skips(&a.body, &x.d.tape.answer) {
		keep = nil
	}
	n, err := a.body.take(p[a.size:])
	if keep != nil {
		keep(p[a.size : a.size+n])
	}
	out := p[:a.size+n]
	if &head[0] != &out[0] {
		out = append(head, p[a.size:a.size+n]...)
	}
	if _, werr := x.c.client.conn.Write(out); werr != nil {
		return x.clientGone()
	}
	up.skip(a.size + n)
	if err != nil {
		return x.splice(ctx)
	}
	if !a.body.done() {
		returning := make(chan error, 1)
		x.returning = returning
		go func() { // step or drop waits for it
			returning <- relay(x.c.client.conn, &up.source, &a.body, keep)
		}()
	}
	return goOn
}

// sent is told that the request's body was sent, or why not.
func (x *exchange) sent(ctx context.Context, err error) (verdict, error) {
	read, broken := errors.AsType[readError](err)
	switch {
	case err == nil:
	case errors.Is(err, errOdd):
		x.unread, x.left = true, x.answer == nil // what comes of it is the client's doing
		if x.answer == nil && (x.up.lease == nil || x.up.taken) {
			return x.splice(ctx), nil
		}
	case broken && errors.Is(read.err, io.EOF):
		x.half, x.unread, x.left = true, true, x.answer == nil
		closeWrite(x.up.conn)
	case broken:
		return x.clientGone(), nil
	default: // upstream takes no more; it may say why
		x.unread = true
	}
	return goOn, nil
}

// returned is told that the answer's body was passed on, or why not.
func (x *exchange) returned(ctx context.Context, err error) (verdict, error) {
	read, broken := errors.AsType[readError](err)
	switch {
	case err == nil:
		return goOn, nil
	case errors.Is(err, errOdd):
		return x.splice(ctx), nil
	case broken && errors.Is(read.err, io.EOF) && x.answer.body.kind == bodyRest:
		return goOn, nil
	case broken && errors.Is(read.err, io.EOF):
		x.broken = true
	case broken:
		x.broken = true
		abort(x.c.client.conn)
	default:
		return x.clientGone(), nil
	}
	return over, nil
}

// clientSaid is told that the client has sent something behind its request, or has
// ended.
func (x *exchange) clientSaid() verdict {
	switch err := x.c.client.err; {
	case err == nil:
		return goOn // the next request
	case errors.Is(err, io.EOF):
		x.half, x.left = true, x.answer == nil
		if x.up.lease == nil || x.up.taken { // else hear has yet to send some of the request
			closeWrite(x.up.conn)
		}
		return goOn
	}
	return x.clientGone()
}

func (x *exchange) clientGone() verdict {
	x.gone = true
	abort(x.up.conn)
	return over
}

// finish ends an exchange that went well.
func (x *exchange) finish(ctx context.Context) (more bool) {
	if x.unread || x.ends || !x.d.body.done() {
		x.splice(ctx)
		return false
	}
	if x.farewell {
		x.c.client.settle()
		linger(x.c.client.conn)
	}
	return !x.farewell
}

// splice connects the two for good.
func (x *exchange) splice(ctx context.Context) verdict {
	x.tell() // nobody knows more of it
	x.c.client.settleUnless(x.sending != nil)
	var mirror io.Writer
	if x.d.copies != nil && x.answer == nil {
		mirror = x.d.copies
	}
	sending := x.sending
	x.sending = nil
	x.c.splice(ctx, x.up, mirror, sending)
	return over
}

// withdraw takes a request back from a laptop, so that it can be sent elsewhere.
func (x *exchange) withdraw() {
	abort(x.up.conn)
	if x.sending != nil {
		nc := x.c.client.conn
		_ = nc.SetReadDeadline(time.Unix(1, 0)) // fails if it is closed, which does as well
		<-x.sending                             // what was wrong with the client shows again
		_ = nc.SetReadDeadline(time.Time{})
		x.sending = nil
	}
	x.c.forget(x.up)
}

// drop ends what is under way.
func (x *exchange) drop() {
	if x.sending == nil && x.returning == nil {
		return
	}
	_ = x.c.client.conn.Close()
	_ = x.up.conn.Close()
	for _, copying := range []chan error{x.sending, x.returning} {
		if copying != nil {
			<-copying
		}
	}
}

// settleUnless is settle, unless somebody else reads the source.
func (s *source) settleUnless(busy bool) {
	if !busy {
		s.settle()
	}
}
