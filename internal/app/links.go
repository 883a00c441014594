package app

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Form is how a program wants to be told an address.
type Form uint8

// Forms of an address.
const (
	FormUnknown Form = iota
	FormAddr         // cart:7070
	FormURL          // http://cart:7070
	FormHost         // cart
	FormPort         // 7070
)

// Candidate is a variable or flag that may carry the address of another service.
type Candidate struct {
	Service string // that reads it
	Env     string // one of Env and Flag
	Flag    string
	Default string
	// Required tells that the program does not start without it.
	Required bool
	Form     Form
	Scheme   string // of FormURL, where the code adds none: "http" when empty
	GRPC     bool   // a gRPC client dials it
	Dialled  bool   // it was seen to be dialled
	From     From
}

func (c Candidate) name() string {
	if c.Env != "" {
		return c.Env
	}
	return c.Flag
}

// shown is how people write it.
func (c Candidate) shown() string {
	if c.Env != "" {
		return "$" + c.Env
	}
	return "--" + c.Flag
}

// Wiring is what the candidates turned out to be.
type Wiring struct {
	Links map[string][]Link // by the service that has them
	Notes []Note
	// Unclear are the services that a variable may mean, by service and variable.
	Unclear map[[2]string][]string
}

// Wire decides which candidate reaches which service. A name that fits several
// services equally well is never guessed at.
func Wire(appName string, services []*Service, candidates []Candidate) Wiring {
	out := Wiring{Links: map[string][]Link{}, Unclear: map[[2]string][]string{}}
	names := aliases(appName, services)
	hosts := map[[2]string]string{} // service, base of X_HOST -> target
	for _, ports := range []bool{false, true} {
		for _, c := range candidates {
			if portName(c) != ports {
				continue
			}
			if ports {
				if l, ok := portLink(appName, services, hosts, c); ok {
					out.Links[c.Service] = append(out.Links[c.Service], l)
				}
				continue
			}
			m := match(appName, services, names, c)
			switch {
			case m.to != nil && m.to.Port() != nil:
				l := compose(m, c, hasPortPartner(candidates, c))
				out.Links[c.Service] = append(out.Links[c.Service], l)
				hosts[[2]string{c.Service, base(c.name())}] = m.to.Name
			case len(m.several) > 0:
				out.Unclear[[2]string{c.Service, c.name()}] = m.several
				if !c.Required {
					out.Notes = append(out.Notes, unclearNote(c, m.several))
				}
			case m.dangling && !c.Required:
				out.Notes = append(out.Notes, danglingNote(c))
			}
		}
	}
	for _, l := range out.Links {
		slices.SortStableFunc(l, func(a, b Link) int { return strings.Compare(a.Env+a.Flag, b.Env+b.Flag) })
	}
	return out
}

func unclearNote(c Candidate, several []string) Note {
	return Note{
		Text: fmt.Sprintf("%s of %s may mean %s; left alone. To choose: %s",
			c.shown(), c.Service, strings.Join(several, " or "), howToLink(c)),
		From: c.From,
	}
}

func danglingNote(c Candidate) Note {
	return Note{
		Text: fmt.Sprintf("%s of %s defaults to %s, which nothing in this app listens on; left alone. To set it: %s",
			c.shown(), c.Service, c.Default, howToSet(c)),
		From: c.From,
	}
}

func howToLink(c Candidate) string {
	if c.Flag != "" {
		return howToSet(c)
	}
	return fmt.Sprintf("services: {%s: {links: {%s: SERVICE}}} in bight.yaml", c.Service, c.Env)
}

func howToSet(c Candidate) string {
	if c.Flag != "" {
		return fmt.Sprintf(`services: {%s: {args: ["--%s=VALUE"]}} in bight.yaml`, c.Service, c.Flag)
	}
	return fmt.Sprintf("services: {%s: {env: {%s: VALUE}}} in bight.yaml", c.Service, c.Env)
}

// addressWords end the names of variables that carry addresses.
var addressWords = map[string]bool{
	"addr": true, "address": true, "addrs": true, "url": true, "uri": true, "host": true, "hostname": true,
	"hostport": true, "endpoint": true, "target": true, "upstream": true, "backend": true, "origin": true, "dsn": true,
}

// fillWords stand between a service's name and the address word, or end a
// service's name, and mean nothing.
var fillWords = map[string]bool{
	"service": true, "svc": true, "server": true, "srv": true, "grpc": true, "http": true, "rpc": true, "api": true,
	"base": true, "app": true, "internal": true, "backend": true, "microservice": true, "ms": true,
}

func portName(c Candidate) bool {
	w := nameWords(c.name())
	return len(w) > 1 && w[len(w)-1] == "port"
}

// nameWords are the words of a variable's name, HOST_PORT taken as one.
func nameWords(name string) []string {
	w := words(name)
	if n := len(w); n > 2 && w[n-2] == "host" && w[n-1] == "port" {
		w = append(w[:n-2], "hostport")
	}
	return w
}

// base is a variable's name without what says that it is an address.
func base(name string) string {
	w := nameWords(name)
	for len(w) > 1 && (addressWords[w[len(w)-1]] || fillWords[w[len(w)-1]] || w[len(w)-1] == "port") {
		w = w[:len(w)-1]
	}
	return strings.Join(w, "")
}

func hasPortPartner(all []Candidate, c Candidate) bool {
	return slices.ContainsFunc(all, func(o Candidate) bool {
		return o.Service == c.Service && portName(o) && base(o.name()) == base(c.name())
	})
}

// portLink links X_PORT when X_HOST is linked.
func portLink(appName string, services []*Service, hosts map[[2]string]string, c Candidate) (Link, bool) {
	to := hosts[[2]string{c.Service, base(c.name())}]
	i := slices.IndexFunc(services, func(s *Service) bool { return s.Name == to })
	if i < 0 || services[i].Port() == nil {
		return Link{}, false
	}
	p := choosePort(services[i], c, FormPort, c.Default)
	from := c.From
	from.Confidence, from.Why = Likely, fmt.Sprintf("%s goes with the host of %s", c.shown(), to)
	return Link{To: to, Port: p.Number, Env: c.Env, Flag: c.Flag, Value: strconv.Itoa(p.Number), From: from}, true
}

// aliases gives each service the names that people call it by, the full one
// first.
func aliases(appName string, services []*Service) map[string][]string {
	prefix := commonPrefix(services)
	app := words(appName)
	out := map[string][]string{}
	for _, s := range services {
		w := words(s.Name)
		var list []string
		add := func(w []string) {
			if n := strings.Join(w, ""); n != "" && !slices.Contains(list, n) {
				list = append(list, n)
			}
		}
		for _, v := range [][]string{w, trimPrefix(w, prefix), trimPrefix(w, app)} {
			add(v)
			for len(v) > 1 && fillWords[v[len(v)-1]] {
				v = v[:len(v)-1]
				add(v)
			}
			j := strings.Join(v, "")
			for _, f := range []string{"service", "svc", "server", "api"} {
				if t, ok := strings.CutSuffix(j, f); ok && len(t) > 1 {
					add([]string{t})
				}
			}
		}
		out[s.Name] = list
	}
	return out
}

func trimPrefix(w, prefix []string) []string {
	if len(prefix) > 0 && len(w) > len(prefix) && slices.Equal(w[:len(prefix)], prefix) {
		return w[len(prefix):]
	}
	return w
}

// commonPrefix are the words that all services' names start with.
func commonPrefix(services []*Service) []string {
	if len(services) < 2 {
		return nil
	}
	p := words(services[0].Name)
	for _, s := range services[1:] {
		w := words(s.Name)
		n := 0
		for n < len(p) && n < len(w) && p[n] == w[n] {
			n++
		}
		p = p[:n]
	}
	return p
}

type matched struct {
	to       *Service
	why      string
	sure     Confidence
	several  []string
	dangling bool // the default is an address on this machine that nobody listens on
	addr     address
}

// address is a default value taken apart.
type address struct {
	ok     bool
	scheme string
	host   string
	port   string
	rest   string // path and query
}

func parseAddress(s string) address {
	if s == "" || strings.ContainsAny(s, " \t\n,") {
		return address{}
	}
	if i := strings.Index(s, "://"); i >= 0 {
		rest := s[i+3:]
		if s[:i] == "dns" || s[:i] == "passthrough" {
			rest = strings.TrimLeft(rest, "/")
		}
		u, err := url.Parse("x://" + rest)
		if err != nil || u.Host == "" {
			return address{}
		}
		tail := u.EscapedPath()
		if u.RawQuery != "" {
			tail += "?" + u.RawQuery
		}
		return address{true, s[:i], u.Hostname(), u.Port(), tail}
	}
	h, p, err := net.SplitHostPort(s)
	if err != nil || h == "" {
		return address{}
	}
	if _, err := strconv.Atoi(p); err != nil {
		return address{}
	}
	return address{true, "", h, p, ""}
}

func (a address) onThisMachine() bool {
	return a.host == "localhost" || a.host == "127.0.0.1" || a.host == "::1" || a.host == "0.0.0.0" ||
		a.host == "host.docker.internal"
}

// elsewhere reports whether the host is a machine that is none of the app's.
func (a address) elsewhere() bool {
	if a.onThisMachine() || !strings.Contains(a.host, ".") {
		return false
	}
	for _, s := range []string{".local", ".svc", ".internal", ".localhost", ".cluster"} {
		if strings.HasSuffix(a.host, s) || strings.Contains(a.host, s+".") {
			return false
		}
	}
	return true
}

func match(appName string, services []*Service, names map[string][]string, c Candidate) matched {
	w := nameWords(c.name())
	addr := parseAddress(c.Default)
	bareHost := c.Default == "localhost" || c.Default == "127.0.0.1"
	suffix := len(w) > 1 && addressWords[w[len(w)-1]]
	fill := len(w) > 1 && fillWords[w[len(w)-1]]
	if !suffix && !c.Dialled && !addr.ok && !fill {
		return matched{}
	}
	if strings.HasPrefix(c.Default, ":") || addr.host == "0.0.0.0" || addr.host == "::" {
		return matched{} // an address to listen on
	}
	if addr.elsewhere() {
		return matched{} // a default that works from anywhere
	}
	others := slices.DeleteFunc(slices.Clone(services), func(s *Service) bool {
		return s.Name == c.Service || s.Port() == nil
	})
	if addr.ok && !addr.onThisMachine() {
		host, _, _ := strings.Cut(addr.host, ".")
		if to := byKeys(others, names, keys(appName, words(host))); len(to) == 1 {
			return matched{to: to[0], addr: addr, sure: Certain, why: fmt.Sprintf("default %s names %s", c.Default, to[0].Name)}
		}
	}
	self := func(s *Service) bool { return s.Name == c.Service }
	to := byKeys(services, names, keys(appName, w))
	if len(to) == 1 && self(to[0]) {
		return matched{}
	}
	to = slices.DeleteFunc(to, self)
	switch {
	case len(to) == 1:
		return matched{to: to[0], addr: addr, sure: Likely, why: fmt.Sprintf("%s names %s", c.shown(), to[0].Name)}
	case len(to) > 1:
		if one := withPort(to, addr); len(one) == 1 {
			return matched{to: one[0], addr: addr, sure: Likely,
				why: fmt.Sprintf("%s and its default port %s fit %s", c.shown(), addr.port, one[0].Name)}
		}
		return matched{several: serviceNames(to)}
	}
	if addr.ok && addr.onThisMachine() {
		if one := withPort(others, addr); len(one) == 1 {
			return matched{to: one[0], addr: addr, sure: Guess,
				why: fmt.Sprintf("default %s is the port of %s", c.Default, one[0].Name)}
		}
	}
	if !suffix && !c.Dialled {
		return matched{}
	}
	if to = byWords(others, keyWords(appName, w)); len(to) == 1 {
		return matched{to: to[0], addr: addr, sure: Guess, why: fmt.Sprintf("%s fits no service but %s", c.shown(), to[0].Name)}
	}
	if len(to) > 1 {
		return matched{several: serviceNames(to)}
	}
	return matched{dangling: addr.ok && addr.onThisMachine() || bareHost && c.Dialled}
}

func serviceNames(list []*Service) []string {
	var out []string
	for _, s := range list {
		out = append(out, s.Name)
	}
	slices.Sort(out)
	return out
}

func withPort(list []*Service, addr address) []*Service {
	var out []*Service
	for _, s := range list {
		if addr.port != "" && slices.ContainsFunc(s.Ports, func(p Port) bool { return strconv.Itoa(p.Number) == addr.port }) {
			out = append(out, s)
		}
	}
	return out
}

// keys are the names that a variable may mean: its own without the words for an
// address, one after the other, with and without the app's name before it.
func keys(appName string, w []string) [][]string {
	var out [][]string
	for _, v := range [][]string{w, trimPrefix(w, words(appName))} {
		out = append(out, v)
		for len(v) > 1 && (addressWords[v[len(v)-1]] || fillWords[v[len(v)-1]]) {
			v = v[:len(v)-1]
			out = append(out, v)
		}
	}
	return out
}

func keyWords(appName string, w []string) []string {
	k := keys(appName, w)
	return k[len(k)-1]
}

// byKeys are the services that a key names; a longer key and a fuller name win.
func byKeys(services []*Service, names map[string][]string, keys [][]string) []*Service {
	for _, k := range keys {
		j := strings.Join(k, "")
		for rank := range 6 {
			var out []*Service
			for _, s := range services {
				if n := names[s.Name]; rank < len(n) && n[rank] == j {
					out = append(out, s)
				}
			}
			if len(out) > 0 {
				return out
			}
		}
	}
	return nil
}

// byWords are the services whose names have all the words.
func byWords(services []*Service, w []string) []*Service {
	var out []*Service
	if len(w) == 0 || addressWords[w[0]] || fillWords[w[0]] {
		return nil
	}
	for _, s := range services {
		have := words(s.Name)
		if !slices.ContainsFunc(w, func(x string) bool { return !slices.Contains(have, x) }) {
			out = append(out, s)
		}
	}
	return out
}

func choosePort(to *Service, c Candidate, form Form, wanted string) Port {
	want := TCP
	switch {
	case c.GRPC:
		want = GRPC
	case form == FormURL && c.Scheme != "tcp":
		want = HTTP
	}
	for _, p := range to.Ports {
		if strconv.Itoa(p.Number) == wanted && (!c.GRPC || p.Protocol == GRPC) {
			return p
		}
	}
	for _, w := range words(c.name()) {
		for _, p := range to.Ports {
			if p.Name == w && !c.GRPC {
				return p
			}
		}
	}
	for _, p := range to.Ports {
		if p.Protocol == want {
			return p
		}
	}
	return to.Ports[0]
}

// compose writes the address in the form that the program wants.
func compose(m matched, c Candidate, portPartner bool) Link {
	form := c.Form
	w := nameWords(c.name())
	last := w[len(w)-1]
	switch {
	case form != FormUnknown:
	case m.addr.ok && m.addr.scheme != "":
		form = FormURL
	case m.addr.ok:
		form = FormAddr
	case portPartner:
		form = FormHost
	case last == "url" || last == "uri" || last == "origin":
		form = FormURL
	case last == "endpoint" && m.to.Port().Protocol == HTTP && !c.GRPC:
		form = FormURL
	case (last == "host" || last == "hostname") && c.Default != "":
		form = FormHost
	default:
		form = FormAddr
	}
	if form == FormAddr && portPartner && !m.addr.ok && (last == "host" || last == "hostname") {
		form = FormHost
	}
	p := choosePort(m.to, c, form, m.addr.port)
	hp := net.JoinHostPort(m.to.Name, strconv.Itoa(p.Number))
	value := hp
	switch form {
	case FormHost:
		value = m.to.Name
	case FormPort:
		value = strconv.Itoa(p.Number)
	case FormURL:
		scheme := "http"
		if c.Scheme != "" {
			scheme = c.Scheme
		}
		if m.addr.scheme != "" {
			scheme = strings.TrimSuffix(m.addr.scheme, "s")
			if m.addr.scheme != "https" && m.addr.scheme != "wss" {
				scheme = m.addr.scheme
			}
		}
		sep := "://"
		if scheme == "dns" || scheme == "passthrough" {
			sep = ":///"
		}
		value = scheme + sep + hp + m.addr.rest
	}
	from := c.From
	from.Confidence, from.Why = m.sure, m.why
	return Link{To: m.to.Name, Port: p.Number, Env: c.Env, Flag: c.Flag, Value: value, From: from}
}
