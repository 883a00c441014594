package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// farWord is the argument with which this program is started by bight run: as what
// carries out orders on the line that it finds there.
const farWord = "far"

// obey carries out the orders that come as lines of JSON, until there are no more.
func obey(ctx context.Context, in io.Reader, out io.Writer, l *line) error {
	defer l.resume()
	orders, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var o order
		if err := orders.Decode(&o); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		done, err := l.do(ctx, o)
		if err != nil {
			done.Error = err.Error()
		}
		if err := answers.Encode(done); err != nil {
			return err
		}
	}
}

// directLine is a line straight to a host.
func directLine(host string) *line {
	return &line{dial: func(ctx context.Context, port int) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	}}
}

// far is a line of a process that bight run has started: the way a user's command
// takes, with all that is in it.
type far struct {
	cmd    *exec.Cmd
	orders io.WriteCloser
	done   chan outcome
	ended  chan struct{}
	errs   bytes.Buffer // to be read after ended
}

// far starts one that talks to a host, by its address in the cluster.
func (b *bed) far(w *wire, host string, env ...string) (*far, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f := &far{done: make(chan outcome), ended: make(chan struct{})}
	f.cmd = exec.Command(b.program("bight"), "run", wireName, "-n", w.namespace, "--", self, farWord, host)
	f.cmd.Dir, f.cmd.Env, f.cmd.Stderr = w.dir, append(os.Environ(), env...), &f.errs
	if f.orders, err = f.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	answers, err := f.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := f.cmd.Start(); err != nil {
		return nil, err
	}
	go f.listen(answers)
	return f, nil
}

func (f *far) listen(answers io.Reader) {
	defer close(f.ended)
	for d := json.NewDecoder(answers); ; {
		var o outcome
		if d.Decode(&o) != nil {
			break
		}
		f.done <- o
	}
	_ = f.cmd.Wait()
}

func (f *far) do(ctx context.Context, o order) (outcome, error) {
	if err := json.NewEncoder(f.orders).Encode(o); err != nil {
		return outcome{}, err
	}
	select {
	case done := <-f.done:
		if done.Error != "" {
			return done, fmt.Errorf("in bight run: %s", done.Error)
		}
		return done, nil
	case <-f.ended:
		return outcome{}, fmt.Errorf("bight run has ended with %v\n%s", f.cmd.ProcessState, f.errs.String())
	case <-ctx.Done():
		return outcome{}, errors.Join(context.Cause(ctx), f.cmd.Process.Kill())
	}
}

// close ends the command, and bight run with it.
func (f *far) close() {
	_ = f.orders.Close()
	patience := time.After(20 * time.Second)
	for {
		select {
		case <-f.done: // of an order that was given up
		case <-patience:
			_ = f.cmd.Process.Kill()
		case <-f.ended:
			return
		}
	}
}
