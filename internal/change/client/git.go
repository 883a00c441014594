package client

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"

	"github.com/bightdev/bight/internal/change"
)

// Remote is the served repository of an app, for git on this machine.
type Remote struct {
	// URL is where it is while the Remote is open: on the loopback interface.
	URL string
	// Token is the password of any user name.
	Token string

	listener net.Listener
	stop     context.CancelFunc
	tasks    sync.WaitGroup
}

// Remote opens a way for git to the repository of an app. What connects to it still
// has to show the token. The caller closes it.
func (c *Client) Remote(ctx context.Context, namespace, app string) (*Remote, error) {
	token, err := c.credential(ctx)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	r := &Remote{
		URL:   "http://" + l.Addr().String() + change.GitPath + namespace + "/" + app + ".git",
		Token: token, listener: l, stop: stop,
	}
	r.tasks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r.tasks.Go(func() { c.carry(run, conn) })
		}
	})
	return r, nil
}

// Close ends all connections.
func (r *Remote) Close() error {
	r.stop()
	err := r.listener.Close()
	r.tasks.Wait()
	return err
}

// Env is what makes git show the token there and nowhere else, and ask nobody.
func (r *Remote) Env() []string {
	settings := [][2]string{
		{"http." + r.URL + ".extraHeader", "Authorization: Bearer " + r.Token},
		{"credential.helper", ""},
	}
	env := []string{"GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_COUNT=" + strconv.Itoa(len(settings))}
	for i, s := range settings {
		env = append(env, "GIT_CONFIG_KEY_"+strconv.Itoa(i)+"="+s[0], "GIT_CONFIG_VALUE_"+strconv.Itoa(i)+"="+s[1])
	}
	return env
}

// carry joins a connection of git with one to the controller.
func (c *Client) carry(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	to, err := c.Dial(ctx)
	if err != nil {
		answer := "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n" + err.Error() + "\n"
		_, _ = io.WriteString(conn, answer)
		return
	}
	defer to.Close()
	defer context.AfterFunc(ctx, func() { _, _ = conn.Close(), to.Close() })()
	var tasks sync.WaitGroup
	tasks.Go(func() { copyAll(to, conn) })
	tasks.Go(func() { copyAll(conn, to) })
	tasks.Wait()
}

// copyAll copies, and passes the end on.
func copyAll(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && (err == nil || errors.Is(err, io.EOF)) {
		if half.CloseWrite() == nil {
			return
		}
	}
	_, _ = to.Close(), from.Close()
}
