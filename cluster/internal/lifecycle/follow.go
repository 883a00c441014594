package lifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/bightdev/bight/cluster/internal/spec"
	"github.com/bightdev/bight/cluster/internal/supervisor"
)

// follow reports the stages of a start until the cluster is ready.
func (m *Manager) follow(ctx context.Context, c *spec.Cluster) error {
	began, version := time.Now(), 0
	n := narrator{context: c.Context()}
	for {
		status, err := statusAfter(ctx, c, version)
		if ctx.Err() != nil {
			return fmt.Errorf("stop following: %w; cluster %s goes on starting, which the next start follows and stop ends", ctx.Err(), c.Name)
		}
		if err != nil {
			if err := m.supervisorSilent(c, err, time.Since(began)); err != nil {
				return err
			}
			_ = pause(ctx, 5*time.Millisecond)
			continue
		}
		version = status.Version
		for _, line := range n.lines(status, time.Now()) {
			m.say("%s", line)
		}
		if status.Error != "" {
			return m.failed(ctx, c, status.Error)
		}
		if status.Ready {
			return nil
		}
	}
}

// supervisorSilent says what it means that the control socket does not answer,
// if it means anything yet.
func (m *Manager) supervisorSilent(c *spec.Cluster, cause error, since time.Duration) error {
	running, err := openSupervisor(c)
	if err != nil {
		return err
	}
	if running == nil {
		return fmt.Errorf("the supervisor of cluster %s has ended; the last words in %s:\n%s", c.Name, c.LogFile("supervisor"), tail(c.LogFile("supervisor"), 10))
	}
	defer running.Close()
	if since > time.Minute {
		return fmt.Errorf("the supervisor of cluster %s, process %d, does not answer for a minute: %w; bight cluster stop ends it, its log is %s", c.Name, running.PID, cause, c.LogFile("supervisor"))
	}
	return nil
}

// failed waits for a supervisor that has given up, so that the failed start
// leaves no process behind.
func (m *Manager) failed(ctx context.Context, c *spec.Cluster, reason string) error {
	running, err := openSupervisor(c)
	if err == nil && running != nil {
		defer running.Close()
		err = end(ctx, running, 10*time.Second)
	}
	if err == nil {
		err = removeCgroups(ctx, c)
	}
	text := fmt.Errorf("start cluster %s: %s\n  all logs are in %s", c.Name, reason, c.Logs())
	if err != nil {
		return fmt.Errorf("%w; and then: %w", text, err)
	}
	return text
}

// narrator turns what a supervisor says into lines for a person.
type narrator struct {
	context string

	stage string
	since time.Time     // when the stage began
	hint  time.Duration // how long into the stage the next hint is due
}

// A stage that takes this long is worth a word on why.
const firstHint = 5 * time.Second

// lines returns what is new in a status.
func (n *narrator) lines(s *supervisor.Status, now time.Time) []string {
	seconds := func() string { return fmt.Sprintf("%5.1f s  ", now.Sub(s.Started).Seconds()) }
	if s.Ready {
		if n.stage == "" {
			return nil // it was before we looked
		}
		nodes := "1 node"
		if len(s.Nodes) != 1 {
			nodes = strconv.Itoa(len(s.Nodes)) + " nodes"
		}
		return []string{seconds() + "ready: " + nodes + ", context " + n.context}
	}
	if s.Stage != n.stage {
		n.stage, n.since, n.hint = s.Stage, now, firstHint
		return []string{seconds() + s.Stage}
	}
	if now.Sub(n.since) < n.hint || s.Waiting == "" {
		return nil
	}
	n.hint = 2 * now.Sub(n.since)
	return []string{seconds() + "still " + s.Stage + ": " + s.Waiting}
}

// Status asks the cluster's supervisor. An error means that it does not run.
func Status(ctx context.Context, c *spec.Cluster) (*supervisor.Status, error) {
	return statusAfter(ctx, c, -1)
}

func statusAfter(ctx context.Context, c *spec.Cluster, version int) (*supervisor.Status, error) {
	response, err := call(ctx, c, http.MethodGet, "/status?after="+strconv.Itoa(version))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	status := &supervisor.Status{}
	if err := json.NewDecoder(response.Body).Decode(status); err != nil {
		return nil, fmt.Errorf("read the status of cluster %s: %w", c.Name, err)
	}
	return status, nil
}

// askToStop tells the supervisor to end. It answers before it does.
func askToStop(ctx context.Context, c *spec.Cluster) error {
	response, err := call(ctx, c, http.MethodPost, "/stop")
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// call asks the supervisor. The caller closes the body.
func call(ctx context.Context, c *spec.Cluster, method, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://cluster"+path, nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", c.ControlSocket())
			},
		},
	}
	return client.Do(request)
}

// tail returns the last n lines of a file.
func tail(file string, n int) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return "  " + err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-n):], "\n  ")
}
