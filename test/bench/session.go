package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// session is a running bight up.
type session struct {
	bed       *bed
	dir       string // of the source
	namespace string
	cmd       *exec.Cmd
	events    string // file
	output    string // file
	ended     chan struct{}
}

// event is one line of the events file.
type event struct {
	Type    string             `json:"type"`
	Service string             `json:"service"`
	URL     string             `json:"url"`
	MS      map[string]float64 `json:"ms"`
	Files   int                `json:"files"`
	Bytes   int64              `json:"bytes"`
}

// up starts bight up in dir and waits until its services answer.
func (b *bed) up(ctx context.Context, dir, namespace string) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	s := &session{bed: b, dir: dir, namespace: namespace, events: dir + ".events", output: dir + ".output", ended: make(chan struct{})}
	out, err := os.Create(s.output)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	s.cmd = exec.Command(b.program("bight"), "up", "-n", namespace, "--events", s.events, fmt.Sprintf("--verbose=%t", b.keep))
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = dir, out, out
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { defer close(s.ended); _ = s.cmd.Wait() }()
	err = poll(ctx, 20*time.Millisecond, func() error {
		if events, err := s.eventsOf("url"); err != nil || len(events) > 0 {
			return err
		}
		select {
		case <-s.ended:
			cancel()
			return errors.New("it has ended")
		default:
			return errors.New("it has no URLs yet")
		}
	})
	if err != nil {
		s.close()
		said, _ := os.ReadFile(s.output)
		return nil, fmt.Errorf("bight up in %s: %w\n%s", dir, err, said)
	}
	return s, nil
}

// close ends the session and removes its environment.
func (s *session) close() {
	_ = s.cmd.Process.Signal(os.Interrupt)
	select {
	case <-s.ended:
	case <-time.After(20 * time.Second):
		s.bed.say("bight up in %s does not end; killing it", s.dir)
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
	s.bed.remove(context.Background(), s.namespace)
}

// eventsOf returns the events of one type so far.
func (s *session) eventsOf(kind string) ([]event, error) {
	b, err := os.ReadFile(s.events)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var all []event
	for line := range bytes.Lines(b) {
		var e event
		if !bytes.HasSuffix(line, []byte("\n")) {
			continue // it is being written
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("%s: %w in %s", s.events, err, line)
		}
		if e.Type == kind {
			all = append(all, e)
		}
	}
	return all, nil
}

// syncs returns what the session says of the saves of a service after the first
// skip ones.
func (s *session) syncs(service string, skip int) ([]event, error) {
	all, err := s.eventsOf("sync")
	if err != nil {
		return nil, err
	}
	var own []event
	for _, e := range all {
		if e.Service == service {
			own = append(own, e)
		}
	}
	return own[min(skip, len(own)):], nil
}

// asker asks a service for a page.
type asker func(ctx context.Context) (string, error)

// page asks through the URL that the session has printed, as a browser would: on
// a connection that it keeps.
func (s *session) page(service, path string) (asker, error) {
	events, err := s.eventsOf("url")
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		if e.Service == service {
			return pageAt(e.URL + path)
		}
	}
	return nil, fmt.Errorf("bight up in %s has printed no URL of service %s", s.dir, service)
}

// pageAt asks a URL. Its host ends in .localhost, which not every resolver knows,
// so the connection goes to 127.0.0.1.
func pageAt(text string) (asker, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	host := u.Host
	u.Host = "127.0.0.1:" + u.Port()
	client := &http.Client{Transport: &http.Transport{}}
	return func(ctx context.Context) (string, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return "", err
		}
		request.Host = host
		response, err := client.Do(request)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %.200s", response.Status, body)
		}
		return string(body), err
	}, nil
}

// besides asks past the session, through the API server's own proxy to the
// Kubernetes Service.
func (s *session) besides(service, port, path string) asker {
	return func(ctx context.Context) (string, error) {
		b, err := s.bed.client.CoreV1().Services(s.namespace).ProxyGet("http", service, port, path, nil).DoRaw(ctx)
		return string(b), err
	}
}

// How long a probe waits between two questions. To ask costs processor time on
// both ends and between them: every 2 ms it takes most of a core, which is nothing
// to a save that takes 5 ms, but would leave the compiler half of this machine
// where the reference has all of it. What the longer pause adds counts against
// ours.
const (
	probeFile  = 2 * time.Millisecond
	probeBuild = 20 * time.Millisecond
)

// save writes a file in place and returns how long it took from when that was
// done until ask got an answer with marker in it.
func save(ctx context.Context, file, content, marker string, every time.Duration, ask asker) (time.Duration, error) {
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		return 0, err
	}
	began := time.Now()
	var took time.Duration
	err := poll(ctx, every, func() error {
		body, err := ask(ctx)
		took = time.Since(began)
		if err == nil && !strings.Contains(body, marker) {
			err = fmt.Errorf("it serves %.100q, not %s", body, marker)
		}
		return err
	})
	return took, err
}

// pods returns the pods of an environment that are not on their way out.
func (b *bed) pods(ctx context.Context, namespace string) ([]core.Pod, error) {
	list, err := b.client.CoreV1().Pods(namespace).List(ctx, meta.ListOptions{})
	if err != nil {
		return nil, err
	}
	var pods []core.Pod
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			pods = append(pods, p)
		}
	}
	return pods, nil
}

// inSync returns nil when bight status says that every service is.
func (s *session) inSync(ctx context.Context) error {
	out, _, err := runIn(ctx, s.dir, nil, s.bed.program("bight"), "status", "-o", "json", "-n", s.namespace)
	if err != nil {
		return err
	}
	var status struct {
		Services []struct {
			Name   string `json:"name"`
			InSync bool   `json:"inSync"`
			Why    string `json:"why"`
		} `json:"services"`
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(s.dir), err)
	}
	for _, service := range status.Services {
		if !service.InSync {
			return fmt.Errorf("service %s is not in sync: %s", service.Name, service.Why)
		}
	}
	return nil
}
