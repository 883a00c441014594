package kube

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// GuardError says that a context does not look like a development cluster.
// Nothing has been changed in it.
type GuardError struct {
	Context string
	Server  string
	Why     string // one clause
}

func (e *GuardError) Error() string {
	return fmt.Sprintf("context %q (%s) %s, so nothing was done: if it is the right one, "+
		"say --allow-context %s, or list it under allowContexts in the user configuration",
		e.Context, e.Server, e.Why, e.Context)
}

// Guard refuses a context that does not look like a development cluster, unless
// its name is among allowed.
func (c *Cluster) Guard(allowed []string) error {
	return guard(c.Context, c.Name, c.Server, allowed)
}

// localNames are contexts that well-known local clusters have; one that ends in
// "-" is a prefix.
var localNames = []string{
	"bight", "bight-", "kind-", "k3d-", "minikube", "docker-desktop", "docker-for-desktop",
	"rancher-desktop", "colima", "colima-", "orbstack", "microk8s", "crc-", "crc",
}

// guard decides by the names of the context and of its cluster entry and by the
// server's address.
func guard(context, cluster, server string, allowed []string) error {
	if slices.Contains(allowed, context) {
		return nil
	}
	for _, name := range []string{context, cluster} {
		if word := productionWord(name); word != "" {
			why := fmt.Sprintf("looks like production: %q is in its name", word)
			if name != context {
				why = fmt.Sprintf("looks like production: its cluster is called %q", name)
			}
			return &GuardError{Context: context, Server: server, Why: why}
		}
	}
	if isLocalName(context) || isLoopback(server) {
		return nil
	}
	return &GuardError{Context: context, Server: server, Why: "does not look like a development cluster"}
}

func isLocalName(context string) bool {
	return slices.ContainsFunc(localNames, func(n string) bool {
		if strings.HasSuffix(n, "-") {
			return strings.HasPrefix(context, n)
		}
		return context == n
	})
}

// isLoopback tells whether server is an address of this very machine.
func isLoopback(server string) bool {
	if !strings.Contains(server, "://") {
		server = "//" + server
	}
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	host := u.Hostname()
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().IsLoopback()
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// productionWord returns the word of name that speaks of production, if any:
// "prod" also as a part of a word, except in "product".
func productionWord(name string) string {
	words := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
	for _, w := range words {
		switch strings.Trim(w, "0123456789") {
		case "live", "prd":
			return w
		}
		rest := strings.ReplaceAll(strings.ReplaceAll(w, "production", "prod"), "product", "")
		if strings.Contains(rest, "prod") {
			return w
		}
	}
	return ""
}
