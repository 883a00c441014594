// Command tool looks at the network that it finds itself in.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
)

func main() {
	what, to := os.Args[1], os.Args[2]
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := map[string]func(context.Context, string) error{
		"dns": dns, "get": get, "tcp": flow("tcp"), "udp": flow("udp"), "refused": refused, "hold": hold, "pour": pour,
	}[what](ctx, to); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// dns looks up a name.
func dns(ctx context.Context, name string) error {
	addrs, err := net.DefaultResolver.LookupHost(ctx, name)
	var failed *net.DNSError
	if errors.As(err, &failed) && failed.IsNotFound {
		return errors.New("no such name")
	}
	fmt.Println(strings.Join(addrs, " "))
	return err
}

// get reads a page.
func get(ctx context.Context, url string) error {
	response, err := http.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}

// flow sends a line and reads one.
func flow(network string) func(context.Context, string) error {
	return func(ctx context.Context, to string) error {
		c, err := new(net.Dialer).DialContext(ctx, network, to)
		if err != nil {
			return err
		}
		defer c.Close()
		fmt.Fprintln(c, "hello")
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second)) // fails on no socket
		b := make([]byte, 100)
		n, err := c.Read(b)
		fmt.Println(strings.TrimSpace(string(b[:n])))
		return err
	}
}

// refused tells how a connection fails, and how long it took until it did so by
// being refused.
func refused(ctx context.Context, to string) error {
	for began := time.Now(); time.Since(began) < 5*time.Second; {
		c, err := net.Dial("tcp", to)
		if errors.Is(err, syscall.ECONNREFUSED) {
			fmt.Println("refused after", time.Since(began).Round(time.Millisecond))
			return nil
		}
		if err == nil {
			c.Close()
		}
		time.Sleep(5 * time.Millisecond)
	}
	return errors.New("it is not refused")
}

// pour sends lines on one connection as fast as it can, until there is nothing more to
// read on stdin, and checks that they come back; it tells each MiB.
func pour(_ context.Context, to string) error {
	c, err := net.Dial("tcp", to)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _, _ = io.Copy(io.Discard, os.Stdin) }()
	const size = 32 << 10
	line := func(n int) string { // each one is another
		return strings.Repeat(fmt.Sprintf("%d.", n), size/8) + "\n"
	}
	back := make(chan error, 1)
	go func() {
		lines := bufio.NewReaderSize(c, size)
		for n, bytes, told := 0, 0, 0; ; n++ {
			got, err := lines.ReadString('\n')
			if err == io.EOF && got == "" {
				err = nil
				fmt.Println("all lines are back:", n)
			} else if err == nil && got != "app "+line(n) {
				err = fmt.Errorf("line %d has come back with %d bytes, %q...", n, len(got), got[:min(len(got), 40)])
			} else if err == nil {
				if bytes += len(got); bytes>>20 > told {
					told = bytes >> 20
					fmt.Println("MiB", told)
				}
				continue
			}
			back <- err
			return
		}
	}()
	for n := 0; ; n++ {
		if _, err := io.WriteString(c, line(n)); err != nil {
			return err
		}
		select {
		case err := <-back:
			return fmt.Errorf("after %d lines: %w", n, err)
		case <-ended:
			fmt.Println("lines:", n+1)
			_ = c.(*net.TCPConn).CloseWrite()
			return <-back
		default:
		}
	}
}

// hold sends ten numbers a second on one connection, for as long as there is
// something to read on stdin, and tells the numbers as they come back.
func hold(_ context.Context, to string) error {
	c, err := net.Dial("tcp", to)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _, _ = io.Copy(io.Discard, os.Stdin) }()
	back := make(chan error, 1)
	go func() {
		lines, next := bufio.NewScanner(c), 0
		for lines.Scan() {
			if want := fmt.Sprint("app ", next); lines.Text() != want {
				back <- fmt.Errorf("%q has come instead of %q", lines.Text(), want)
				return
			}
			fmt.Println("number", next)
			next++
		}
		back <- lines.Err()
	}()
	for i := 0; ; i++ {
		if _, err := fmt.Fprintln(c, i); err != nil {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case err := <-back:
			return fmt.Errorf("the connection has ended: %w", err)
		case <-ended:
			_ = c.(*net.TCPConn).CloseWrite()
			err := <-back
			fmt.Println("all of", i+1, "are back")
			return err
		}
	}
}
