package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// roundTrip is what the delay proxy adds.
const roundTrip = 20 * time.Millisecond

// delay measures one stream whose way to the API server takes 20 ms there and back.
func delay(ctx context.Context, b *bed) ([]row, error) {
	w, err := b.wire(ctx, "bench-delay", 1)
	if err != nil {
		return nil, err
	}
	defer w.remove()
	config, stop, err := b.slowConfig(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	f, err := b.far(w, w.pods[0].Status.PodIP, "KUBECONFIG="+config)
	if err != nil {
		return nil, err
	}
	defer f.close()
	const bytes = 64 << 20
	// A window is under way at most, and so long it is until the next may be.
	windows := time.Duration(bytes/(64<<10)) * roundTrip
	echo := &trial{name: "request, delayed", by: f, order: order{Task: taskEcho, Count: 50, Every: requestPause}}
	up := &trial{name: "up, delayed", by: f, order: order{Task: taskUp, Bytes: bytes}}
	down := &trial{name: "down, delayed", by: f, order: order{Task: taskDown, Bytes: bytes}}
	if err := b.try(ctx, echo, up, down); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%d ms round trip added", roundTrip.Milliseconds())
	computed := durations("computed: 64 KiB for each round trip", []time.Duration{windows})
	added := durations("what is added", []time.Duration{roundTrip})
	// At least 10 times a rate is at most a tenth of its time.
	return []row{
		{Name: fmt.Sprintf("one stream up, %s, %s", size(bytes), name), Reference: &computed, Limit: 0.1, Ours: up.transfers("bight run")},
		{Name: fmt.Sprintf("one stream down, %s, %s", size(bytes), name), Reference: &computed, Limit: 0.1, Ours: down.transfers("bight run")},
		{Name: "small request, " + name, Reference: &added, Ours: echo.requests("64 B echoed on an open connection through bight run")},
	}, nil
}

// slowConfig returns a kubeconfig that leads to the API server through a delay. stop
// ends that.
func (b *bed) slowConfig(ctx context.Context) (file string, stop func(), err error) {
	config, err := clientcmd.NewDefaultClientConfigLoadingRules().Load()
	if err != nil {
		return "", nil, err
	}
	current, ok := config.Contexts[config.CurrentContext]
	if !ok || config.Clusters[current.Cluster] == nil {
		return "", nil, fmt.Errorf("the kubeconfig's context %q names no cluster", config.CurrentContext)
	}
	cluster := config.Clusters[current.Cluster]
	server, err := url.Parse(cluster.Server)
	if err != nil {
		return "", nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	if cluster.TLSServerName == "" {
		cluster.TLSServerName = server.Hostname()
	}
	to := server.Host
	if server.Port() == "" {
		to = net.JoinHostPort(server.Hostname(), "443")
	}
	server.Host = ln.Addr().String()
	cluster.Server = server.String()
	cluster.Extensions = nil // the way to the pods, which is without the delay
	file = filepath.Join(b.work, "slow.kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		ln.Close()
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		serveDelayed(ctx, ln, to, roundTrip/2)
	}()
	return file, func() { cancel(); <-done; os.Remove(file) }, nil
}

// serveDelayed carries connections to another address, and holds up every byte for
// a while; how many are under way is not limited by that. It returns when ctx has
// ended and all connections have.
func serveDelayed(ctx context.Context, ln net.Listener, to string, by time.Duration) {
	var conns sync.WaitGroup
	defer conns.Wait()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for {
		near, err := ln.Accept()
		if err != nil {
			return
		}
		conns.Go(func() {
			defer near.Close()
			over, err := new(net.Dialer).DialContext(ctx, "tcp", to)
			if err != nil {
				return
			}
			defer over.Close()
			defer context.AfterFunc(ctx, func() { near.Close(); over.Close() })()
			var ways sync.WaitGroup
			for _, way := range [][2]net.Conn{{near, over}, {over, near}} {
				ways.Go(func() {
					carryLate(way[1], way[0], by)
					// Either end's end is that of both: TLS has its own.
					near.Close()
					over.Close()
				})
			}
			ways.Wait()
		})
	}
}

// late is something that was read and is to be written at a time.
type late struct {
	content []byte
	due     time.Time
}

// carryLate copies everything, each byte a while after it was read. When it cannot
// write any more it closes what it reads from.
func carryLate(to io.Writer, from io.ReadCloser, by time.Duration) {
	// That is more than a machine moves in the meantime.
	underWay := make(chan late, 1024)
	go func() {
		defer close(underWay)
		for b := make([]byte, 64<<10); ; {
			n, err := from.Read(b)
			if n > 0 {
				underWay <- late{bytes.Clone(b[:n]), time.Now().Add(by)}
			}
			if err != nil {
				return
			}
		}
	}()
	broken := false
	for l := range underWay { // until reading has ended
		if broken {
			continue
		}
		time.Sleep(time.Until(l.due))
		if _, err := to.Write(l.content); err != nil {
			broken = true
			from.Close()
		}
	}
}
