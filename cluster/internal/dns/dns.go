// Package dns is the cluster's name server: CoreDNS with the few plugins that a
// cluster needs. The main function is [Run].
package dns

import (
	"context"
	"fmt"
	"strings"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/bind"       // the plugins named in the configuration
	_ "github.com/coredns/coredns/plugin/cache"      //
	_ "github.com/coredns/coredns/plugin/errors"     //
	_ "github.com/coredns/coredns/plugin/forward"    //
	_ "github.com/coredns/coredns/plugin/kubernetes" //
	_ "github.com/coredns/coredns/plugin/template"   //
)

// Config says where the server listens and what it knows.
type Config struct {
	Address    string // IP address to listen on, port 53
	Domain     string // "cluster.local"
	Kubeconfig string // a file
	Upstream   string // where other names are looked up; empty: they do not exist
}

// corefile returns the CoreDNS configuration.
func (c Config) corefile() string {
	var b strings.Builder
	fmt.Fprintf(&b, ".:53 {\n bind %s\n errors\n", c.Address)
	fmt.Fprintf(&b, " kubernetes %s in-addr.arpa ip6.arpa {\n  kubeconfig %s\n  pods verified\n  ttl 5\n", c.Domain, c.Kubeconfig)
	fmt.Fprintf(&b, "  fallthrough in-addr.arpa ip6.arpa\n }\n")
	if c.Upstream != "" {
		fmt.Fprintf(&b, " cache 5\n forward . %s\n", c.Upstream)
	} else {
		fmt.Fprintf(&b, " template ANY ANY . {\n  rcode NXDOMAIN\n }\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// Run serves until ctx ends.
func Run(ctx context.Context, c Config) error {
	caddy.Quiet, dnsserver.Quiet = true, true
	server, err := caddy.Start(caddy.CaddyfileInput{
		Contents:       []byte(c.corefile()),
		Filepath:       "Corefile",
		ServerTypeName: "dns",
	})
	if err != nil {
		return fmt.Errorf("start the name server on %s: %w", c.Address, err)
	}
	<-ctx.Done()
	return server.Stop()
}
