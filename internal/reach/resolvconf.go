package reach

import (
	"cmp"
	"strconv"
	"strings"
	"time"
)

// resolvConf is what /etc/resolv.conf says. Search lists are the business of whoever
// asks a forwarder.
type resolvConf struct {
	servers  []string // addresses
	timeout  time.Duration
	attempts int
	rotate   bool
	tcp      bool // never ask over UDP
	search   []string
	ndots    int // names with so many dots are tried as they are first
}

// parseResolvConf reads resolv.conf(5); what it does not know it passes over, as
// other resolvers do.
func parseResolvConf(text string) resolvConf {
	c := resolvConf{timeout: 5 * time.Second, attempts: 2, ndots: 1}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		line, _, _ = strings.Cut(line, ";")
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if len(c.servers) < 3 {
				c.servers = append(c.servers, f[1])
			}
		case "search":
			c.search = f[1:min(len(f), 33)]
		case "domain":
			c.search = f[1:2]
		case "options":
			for _, o := range f[1:] {
				c.option(o)
			}
		}
	}
	return c
}

func (c *resolvConf) option(o string) {
	name, value, _ := strings.Cut(o, ":")
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		n = 0
	}
	switch name {
	case "timeout":
		c.timeout = time.Duration(min(cmp.Or(n, 1), 30)) * time.Second
	case "attempts":
		c.attempts = min(cmp.Or(n, 1), 5)
	case "ndots":
		c.ndots = min(n, 15)
	case "rotate":
		c.rotate = true
	case "use-vc", "usevc", "tcp":
		c.tcp = true
	}
}
