// Package etcd runs the cluster's store: one etcd member that is reached through
// a Unix socket only. The main function is [Run].
package etcd

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// Run serves the data in dir on socket until ctx ends.
func Run(ctx context.Context, dir, socket string) error {
	c := embed.NewConfig()
	c.Dir = dir
	c.LogLevel = "warn"
	c.ListenClientUrls = []url.URL{{Scheme: "unix", Path: socket}}
	// Nobody asks for these, but etcd insists on addresses with a port. They are
	// in the cluster's own network namespace.
	c.AdvertiseClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2379"}}
	peers := url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peers}, []url.URL{peers}
	c.InitialCluster = c.Name + "=" + peers.String()
	// A single member elects itself; the default would wait a second for others.
	c.TickMs, c.ElectionMs = 10, 100
	c.AutoCompactionMode, c.AutoCompactionRetention = "periodic", "10m"
	c.WarningUnaryRequestDuration, c.WarningApplyDuration = time.Second, time.Second
	c.QuotaBackendBytes = 4 << 30

	server, err := embed.StartEtcd(c)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer server.Close()
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(time.Minute):
		return fmt.Errorf("open %s: the store is not ready after a minute", dir)
	case <-ctx.Done():
		return nil
	}
	select {
	case err := <-server.Err():
		return err
	case <-ctx.Done():
		return nil
	}
}
