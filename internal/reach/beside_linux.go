package reach

import (
	"cmp"
	"context"
	"net"
	"time"
)

// unanswered is for how long an attempt to connect goes without an answer until there is another one
// beside it. Each one after that waits half as long again.
const unanswered = 500 * time.Millisecond

// beside connects by dial, and by another call of it beside the first where that gets no answer: what
// ends first counts. A connection to a Kubernetes Service leads, with all that the kernel sends for it
// again, to the pod that was chosen as it began. Where that pod has just ended, nobody answers, and
// whoever waits waits until the end of his patience; but by then the nodes have heard of it, and a
// connection that begins anew leads to another pod.
func (v *Server) beside(ctx context.Context, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	type end struct {
		conn net.Conn
		err  error
	}
	ctx, giveUp := context.WithCancel(ctx)
	ends := make(chan end)
	attempts := 0
	attempt := func() {
		attempts++
		go func() {
			conn, err := dial(ctx)
			ends <- end{conn, err}
		}()
	}
	attempt()
	pause := cmp.Or(v.unanswered, unanswered)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case first := <-ends:
			giveUp()
			for range attempts - 1 {
				if other := <-ends; other.conn != nil {
					_ = other.conn.Close()
				}
			}
			return first.conn, first.err
		case <-timer.C:
			attempt()
			pause += pause / 2
			timer.Reset(pause)
		}
	}
}
