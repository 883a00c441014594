// Package client reaches the controller of the outer loop from wherever a kubeconfig
// works: through a port-forward to the controller that acts.
//
// The main type is [Client]. It proves who the user is by the token of the
// kubeconfig or, where that has none, by a Ticket of its own. It is safe for
// concurrent use.
package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/kube"
)

// Client is a way to the controller.
type Client struct {
	Cluster *kube.Cluster
	// Namespace is the one of the App, in which a Ticket is made where one is needed.
	Namespace string
	// System is where the controllers run, Controller the name of their StatefulSet,
	// and Port where they serve.
	System, Controller string
	Port               int
	// Address, in a pod, is where the controller's Kubernetes Service is: HOST:PORT. It
	// is connected to as it is, and leads to the controller that acts.
	Address string

	mu     sync.Mutex
	leader string
	token  string
	ticket string // its name, where there is one
	http   *http.Client
}

// MissingError tells that the cluster has no controller.
type MissingError struct{ Context string }

func (e *MissingError) Error() string {
	return fmt.Sprintf("the cluster of context %q has no controller, which takes changes to their environments: whoever runs it installs it once with bight install", e.Context)
}

// Open finds the controller and sees to it that we can say who we are. Close must be
// called.
func (c *Client) Open(ctx context.Context) error {
	if c.Address == "" {
		if _, err := c.find(ctx); err != nil {
			return err
		}
	}
	_, err := c.credential(ctx)
	return err
}

// Close gives the Ticket back.
func (c *Client) Close() error {
	c.mu.Lock()
	name := c.ticket
	c.ticket, c.token = "", ""
	if c.http != nil {
		c.http.CloseIdleConnections()
	}
	c.mu.Unlock()
	if name == "" {
		return nil
	}
	client, err := c.tickets()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return client.Delete(ctx, name, metav1.DeleteOptions{})
}

// most is how many controllers there can be.
const most = 9

// patience is how long no controller may act.
const patience = 30 * time.Second

// find returns the pod of the controller that acts, and waits for one while they are
// there and none does.
func (c *Client) find(ctx context.Context) (string, error) {
	c.mu.Lock()
	leader := c.leader
	c.mu.Unlock()
	if leader != "" {
		return leader, nil
	}
	client, err := c.Cluster.Typed()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("of the controllers in namespace %s none acts: see kubectl -n %[1]s logs statefulset/%s", c.System, c.Controller))
	defer cancel()
	for {
		var seen int
		for i := range most {
			pod, err := client.CoreV1().Pods(c.System).Get(ctx, fmt.Sprintf("%s-%d", c.Controller, i), metav1.GetOptions{})
			if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) && i > 0 {
				break
			}
			if apierrors.IsForbidden(err) {
				return "", &MissingError{c.Cluster.Context}
			}
			if err != nil {
				if cause := context.Cause(ctx); cause != nil {
					return "", cause
				}
				return "", fmt.Errorf("look for the controller: %w", c.Cluster.Explain(err))
			}
			seen++
			if pod.Labels[v1alpha1.LeaderLabel] == "true" && ready(pod) {
				c.mu.Lock()
				c.leader = pod.Name
				c.mu.Unlock()
				return pod.Name, nil
			}
		}
		if seen == 0 {
			return "", &MissingError{c.Cluster.Context}
		}
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(100 * time.Millisecond): // one pod at a time may be got, and none may be watched
		}
	}
}

func ready(pod *corev1.Pod) bool {
	for _, cond := range pod.Status.Conditions {
		if cond.Type == corev1.PodReady {
			return cond.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil
		}
	}
	return false
}

// Dial connects to the controller.
func (c *Client) Dial(ctx context.Context) (net.Conn, error) {
	if c.Address != "" {
		dialer := net.Dialer{Timeout: 5 * time.Second}
		return dialer.DialContext(ctx, "tcp", c.Address)
	}
	leader, err := c.find(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := c.Cluster.DialPod(ctx, c.System, leader, c.Port)
	if err != nil {
		c.mu.Lock()
		c.leader = "" // another may act by now
		c.mu.Unlock()
		return nil, fmt.Errorf("connect to the controller: %w", c.Cluster.Explain(err))
	}
	return &watched{Conn: conn, lost: func() {
		c.mu.Lock()
		c.leader = ""
		c.mu.Unlock()
	}}, nil
}

// watched tells when a connection fails.
type watched struct {
	net.Conn
	lost func()
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	var port *kube.PortError
	if errors.As(err, &port) || errors.Is(err, kube.ErrTunnelLost) {
		w.lost()
	}
	return n, err
}

// credential is what proves who we are.
func (c *Client) credential(ctx context.Context) (string, error) {
	config := c.Cluster.RESTConfig()
	if config.BearerTokenFile != "" {
		b, err := os.ReadFile(config.BearerTokenFile)
		return strings.TrimSpace(string(b)), err
	}
	if config.BearerToken != "" {
		return config.BearerToken, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token != "" {
		return c.token, nil
	}
	return c.makeTicket(ctx)
}

func (c *Client) tickets() (dynamic.ResourceInterface, error) {
	d, err := c.Cluster.Dynamic()
	if err != nil {
		return nil, err
	}
	return d.Resource(v1alpha1.Tickets()).Namespace(c.Namespace), nil
}

func (c *Client) makeTicket(ctx context.Context) (string, error) {
	typed, err := c.Cluster.Typed()
	if err != nil {
		return "", err
	}
	review, err := typed.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("ask the API server who we are: %w", c.Cluster.Explain(err))
	}
	client, err := c.tickets()
	if err != nil {
		return "", err
	}
	key := rand.Text()
	sum := sha256.Sum256([]byte(key))
	t := &v1alpha1.Ticket{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion().String(), Kind: "Ticket"},
		ObjectMeta: metav1.ObjectMeta{Name: "ship-" + strings.ToLower(rand.Text()[:8]), Namespace: c.Namespace},
		Spec:       v1alpha1.TicketSpec{Owner: review.Status.UserInfo.Username, Groups: review.Status.UserInfo.Groups, KeyHash: hex.EncodeToString(sum[:])},
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(t)
	if err != nil {
		return "", err
	}
	if _, err := client.Create(ctx, &unstructured.Unstructured{Object: fields}, metav1.CreateOptions{FieldManager: "bight"}); err != nil {
		return "", fmt.Errorf("make a ticket in namespace %s: %w", c.Namespace, c.Cluster.Explain(err))
	}
	c.ticket, c.token = t.Name, fmt.Sprintf("%s.%s.%s.%s", change.TicketPrefix, c.Namespace, t.Name, key)
	return c.token, nil
}

// base is a name for the controller in URLs; where it is, Dial knows.
const base = "http://controller"

// HTTP is a client whose requests go to the controller, as the user.
func (c *Client) HTTP() *http.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http == nil {
		c.http = &http.Client{Transport: &signed{c: c, next: &http.Transport{
			DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return c.Dial(ctx) },
			IdleConnTimeout: 30 * time.Second,
		}}}
	}
	return c.http
}

// signed adds the credential to requests.
type signed struct {
	c    *Client
	next *http.Transport
}

func (s *signed) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := s.c.credential(r.Context())
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+token)
	return s.next.RoundTrip(r)
}

func (s *signed) CloseIdleConnections() { s.next.CloseIdleConnections() }

// Work connects a worker.
func (c *Client) Work(ctx context.Context) (*websocket.Conn, error) {
	conn, answer, err := websocket.Dial(ctx, base+change.WorkPath, &websocket.DialOptions{HTTPClient: c.HTTP()})
	if err != nil && answer != nil {
		return nil, fmt.Errorf("connect to the controller: %s", answer.Status)
	}
	return conn, err
}

// File returns what a change has printed or left. The caller closes it.
func (c *Client) File(ctx context.Context, path string, follow bool) (io.ReadCloser, error) {
	at := base + change.FilesPath + "/" + path
	if follow {
		at += "?follow"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	answer, err := c.HTTP().Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		defer answer.Body.Close()
		b, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
		return nil, &AnswerError{Status: answer.StatusCode, Text: strings.TrimSpace(string(b))}
	}
	return answer.Body, nil
}

// Ask returns the answer to a question, which is JSON.
func (c *Client) Ask(ctx context.Context, path string, question url.Values, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path+"?"+question.Encode(), nil)
	if err != nil {
		return err
	}
	answer, err := c.HTTP().Do(r)
	if err != nil {
		return fmt.Errorf("ask the controller: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
		return &AnswerError{Status: answer.StatusCode, Text: strings.TrimSpace(string(b))}
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxResults)).Decode(into); err != nil {
		return fmt.Errorf("read the controller's answer: %w", err)
	}
	return nil
}

// Results returns those of the named results of an app that the controller has.
func (c *Client) Results(ctx context.Context, namespace, app string, names []string) (map[string][]byte, error) {
	asked, err := json.Marshal(names)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, base+change.ResultsPath+"/"+namespace+"/"+app, bytes.NewReader(asked))
	if err != nil {
		return nil, err
	}
	answer, err := c.HTTP().Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask the controller for results: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
		return nil, &AnswerError{Status: answer.StatusCode, Text: strings.TrimSpace(string(b))}
	}
	found := map[string][]byte{}
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxResults)).Decode(&found); err != nil {
		return nil, fmt.Errorf("read the controller's results: %w", err)
	}
	return found, nil
}

// maxResults is more than an answer with results has.
const maxResults = 64 << 20

// AnswerError is what the controller says against a request.
type AnswerError struct {
	Status int
	Text   string
}

func (e *AnswerError) Error() string {
	if e.Text == "" {
		return "the controller answers " + http.StatusText(e.Status)
	}
	return e.Text
}
