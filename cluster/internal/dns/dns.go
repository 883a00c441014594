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
	Address    string // IP address to listen on
	Port       int    // 53, but for tests
	Domain     string // "cluster.local"
	Kubeconfig string // a file
	Upstream   string // where other names are looked up; empty: they do not exist
}

// corefile returns the CoreDNS configuration: one server for the cluster's names
// and one for all others. In one server, the order in which plugins are asked is
// CoreDNS's own, and the one that denies comes before the one that knows.
func (c Config) corefile() string {
	const reverse = "in-addr.arpa ip6.arpa"
	listen := fmt.Sprintf(" bind %s\n errors\n", c.Address)
	others, end := " template ANY ANY {\n  rcode NXDOMAIN\n }\n", " }\n"
	if c.Upstream != "" {
		others = fmt.Sprintf(" cache 5\n forward . %s\n", c.Upstream)
		// Addresses that are not the cluster's have names elsewhere.
		end = fmt.Sprintf("  fallthrough %s\n }\n forward . %s\n", reverse, c.Upstream)
	}
	var zones []string
	for zone := range strings.FieldsSeq(c.Domain + " " + reverse) {
		zones = append(zones, fmt.Sprintf("%s:%d", zone, c.Port))
	}
	return strings.Join(zones, " ") + " {\n" + listen +
		fmt.Sprintf(" kubernetes {\n  kubeconfig %q\n  pods verified\n  ttl 5\n", c.Kubeconfig) + end +
		fmt.Sprintf("}\n.:%d {\n", c.Port) + listen + others + "}\n"
}

// Run serves until ctx ends.
func Run(ctx context.Context, c Config) error {
	caddy.Quiet, dnsserver.Quiet = true, true // the libraries' own switches; they print to standard output
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
