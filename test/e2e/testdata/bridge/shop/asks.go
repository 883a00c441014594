package shop

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// asks asks others, by URLs of http, grpc and tcp, and returns what they say, a line each.
func asks(ctx context.Context, urls string) (said string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for one := range strings.FieldsSeq(urls) {
		u, err := url.Parse(one)
		if err != nil {
			return "", err
		}
		var line string
		switch u.Scheme {
		case "grpc":
			line, err = askHealth(ctx, u.Host)
		case "tcp":
			line, err = askLine(ctx, u.Host)
		default:
			line, err = askPage(ctx, one)
		}
		if err != nil {
			return "", fmt.Errorf("ask %s: %w", one, err)
		}
		said += one + " says " + strings.TrimSpace(line) + "\n"
	}
	return said, nil
}

func askPage(ctx context.Context, url string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	return string(text), err
}

func askHealth(ctx context.Context, host string) (string, error) {
	c, err := grpc.NewClient(host, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer c.Close()
	resp, err := healthpb.NewHealthClient(c).Check(ctx, &healthpb.HealthCheckRequest{})
	return resp.GetStatus().String(), err
}

func askLine(ctx context.Context, host string) (string, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", host)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if end, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(end)
	}
	if _, err := fmt.Fprintln(c, "hello"); err != nil {
		return "", err
	}
	return bufio.NewReader(c).ReadString('\n')
}
