package detect

import (
	"go/token"
	"strconv"
	"strings"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/app/detect/flow"
)

// listener is one place where a program listens: the address under one chain of
// callers.
type listener struct {
	value       flow.Value // alternatives that stand in for each other
	proto       string
	tls         bool
	conditional bool
	pos         token.Pos
	site        *flow.Site // nil for a struct literal
	literal     *flow.Literal
	function    string
	likely      bool // told by a convention, not by a library that is known
}

// listeners finds where the program listens.
func listeners(p *flow.Program) []listener {
	var out []listener
	add := func(l listener, cases []flow.Case) {
		for _, c := range cases {
			for _, s := range c.Chain {
				l.conditional = l.conditional || s.Conditional
			}
			if len(c.Chain) > 0 {
				l.function = l.function + " " + c.Chain[len(c.Chain)-1].FuncName()
			}
			for _, g := range c.Value.Groups() {
				l.value = g
				out = append(out, l)
			}
		}
	}
	for _, s := range p.Sites {
		l, arg, ok := listenCall(p, s)
		if !ok {
			continue
		}
		l.pos, l.site, l.conditional, l.function = s.Pos(), s, s.Conditional, s.FuncName()
		if arg < 0 { // gin's Run() and the like
			l.value = ginDefault(s.Pos())
			out = append(out, l)
			continue
		}
		cases := p.Expand(s.Call.Args[arg], s)
		if l.likely && !looksListening(cases) {
			continue
		}
		add(l, cases)
	}
	addr := false
	for _, lit := range p.Literals {
		t := p.LitType(lit)
		e, has := flow.Fields(lit.Lit)["Addr"]
		if !has || t.Name != "Server" || strings.HasPrefix(t.Path, "./") {
			continue
		}
		l := listener{proto: app.TCP, pos: e.Pos(), conditional: lit.Conditional, literal: lit, function: lit.FuncName()}
		switch {
		case t.Path == "net/http" || strings.Contains(t.Path, "http"):
			l.proto, addr = app.HTTP, true
		case strings.HasSuffix(t.Path, "/dns"):
			l.proto = app.UDP
		}
		add(l, p.ExpandIn(e, lit))
	}
	if !addr {
		out = append(out, assignedAddr(p)...)
	}
	return out
}

// assignedAddr is for srv := &http.Server{}; srv.Addr = ":8080".
func assignedAddr(p *flow.Program) []listener {
	for _, s := range p.Sites {
		c := p.Callee(s)
		if c.Path != "net/http" || c.Recv != "Server" || !strings.HasPrefix(c.Name, "ListenAndServe") {
			continue
		}
		l := listener{proto: app.HTTP, tls: strings.HasSuffix(c.Name, "TLS"), pos: s.Pos(), site: s, function: s.FuncName()}
		v := p.FieldValue(flow.Type{Path: "net/http", Name: "Server"}, "Addr")
		if v == nil {
			v = flow.Value{{Atoms: []flow.Atom{{Kind: flow.Const, Text: ":80", Pos: s.Pos()}}}}
		}
		l.value = v
		return []listener{l}
	}
	return nil
}

func ginDefault(pos token.Pos) flow.Value {
	return flow.Value{
		{Atoms: []flow.Atom{{Kind: flow.Const, Text: ":", Pos: pos}, {Kind: flow.Env, Text: "PORT", Pos: pos}}},
		{Atoms: []flow.Atom{{Kind: flow.Const, Text: ":8080", Pos: pos}}},
	}
}

// listenCall recognises a call that listens, and which argument is the address.
func listenCall(p *flow.Program, s *flow.Site) (l listener, arg int, ok bool) {
	c, n := p.Callee(s), len(s.Call.Args)
	if c.Local {
		return l, 0, false
	}
	has := func(part string) bool { return strings.Contains(c.Path, part) }
	l.tls = strings.HasSuffix(c.Name, "TLS")
	l.proto = app.HTTP
	switch {
	case c.Path == "net/http":
		return l, 0, c.Recv == "" && strings.HasPrefix(c.Name, "ListenAndServe") && n > 1
	case c.Path == "net" && (c.Recv == "" || c.Recv == "ListenConfig"), c.Path == "crypto/tls":
		return netListen(p, s, c)
	case has("gin-gonic/gin"):
		if c.Name == "Run" && n == 0 {
			return l, -1, true
		}
		return l, 0, (c.Name == "Run" || c.Name == "RunTLS") && n > 0
	case has("labstack/echo"):
		return l, 0, (c.Name == "Start" || c.Name == "StartTLS" || c.Name == "StartH2CServer") && n > 0
	case has("gofiber/fiber"):
		return l, 0, (c.Name == "Listen" || c.Name == "ListenTLS") && n > 0
	case has("kataras/iris"):
		return l, 0, (c.Name == "Addr" || c.Name == "Listen") && n > 0
	case c.Path == "testing" || has("httptest"):
		return l, 0, false
	case strings.HasPrefix(c.Name, "ListenAndServe"):
		l.likely = c.Path == ""
		return l, 0, n > 1 || n == 1 && c.Path != ""
	case c.Name == "Run" || c.Name == "Start" || c.Name == "Listen":
		l.likely = true
		return l, 0, n > 0 && n < 3
	}
	return l, 0, false
}

func netListen(p *flow.Program, s *flow.Site, c flow.Callee) (l listener, arg int, ok bool) {
	n := len(s.Call.Args)
	arg = 1
	if c.Recv == "ListenConfig" {
		arg = 2
	}
	l.proto, l.tls = app.TCP, c.Path == "crypto/tls"
	switch c.Name {
	case "Listen", "ListenTCP":
	case "ListenPacket", "ListenUDP":
		l.proto = app.UDP
	default:
		return l, 0, false
	}
	if n <= arg {
		return l, 0, false
	}
	for _, cs := range p.Expand(s.Call.Args[arg-1], s) {
		for _, a := range cs.Value.Consts() {
			if strings.HasPrefix(a.Text, "unix") {
				return l, 0, false
			}
		}
	}
	if l.proto == app.TCP {
		l.proto = servedProtocol(p, s)
	}
	return l, arg, true
}

// servedProtocol is the protocol of what serves on a listener.
func servedProtocol(p *flow.Program, s *flow.Site) string {
	found := ""
	for _, t := range p.Servers(s) {
		switch c := p.Callee(t); {
		case c.Path == "net/http" || strings.Contains(c.Path, "http"):
			return app.HTTP // perhaps together with gRPC, on one port
		case c.Path == "google.golang.org/grpc":
			found = app.GRPC
		}
	}
	if found != "" {
		return found
	}
	if p.Accepts(s) {
		return app.TCP
	}
	grpc, http := false, false
	for _, t := range p.Sites {
		c := p.Callee(t)
		grpc = grpc || c.Path == "google.golang.org/grpc" && c.Name == "NewServer"
		http = http || c.Path == "net/http" && (c.Name == "Serve" || c.Name == "ServeTLS")
	}
	switch {
	case grpc:
		return app.GRPC
	case http:
		return app.HTTP
	}
	return app.TCP
}

// looksListening reports whether a value is unmistakably an address to listen on.
func looksListening(cases []flow.Case) bool {
	for _, c := range cases {
		for _, a := range c.Value {
			if len(a.Atoms) == 0 || a.Atoms[0].Kind != flow.Const {
				continue
			}
			host, port, ok := strings.Cut(a.Atoms[0].Text, ":")
			if !ok || strings.Contains(host, "/") {
				continue
			}
			n, err := strconv.Atoi(port)
			if err == nil && n > 0 && n < 65536 || port == "" && len(a.Atoms) > 1 {
				return true
			}
		}
	}
	return false
}

// portFact is what an address to listen on says.
type portFact struct {
	listener
	number    int    // 0 when none is known
	zero      bool   // 0 is its default: off, or any port
	env, flag string // that set the port
	wholeEnv  bool   // env sets the whole address
	wholeFlag bool
	hostEnv   string // that set the host
	hostFlag  string
	loopback  bool // listens on this machine only, unless told otherwise
	numberPos token.Pos
	controlAt token.Pos
}

// readAddress takes the alternatives of an address apart.
func readAddress(l listener) portFact {
	f := portFact{listener: l, numberPos: l.pos}
	hostKnown := false
	for _, a := range l.value {
		host, port, whole := splitAddress(a)
		for _, t := range port {
			switch t.Kind {
			case flow.Env:
				if f.env == "" {
					f.env, f.wholeEnv, f.controlAt = t.Text, whole, t.Pos
				}
			case flow.Flag:
				if f.flag == "" {
					f.flag, f.wholeFlag = t.Text, whole
					if !f.controlAt.IsValid() {
						f.controlAt = t.Pos
					}
				}
			}
		}
		if n, pos, ok := portNumber(port); ok {
			if n == 0 {
				f.zero = true
			} else if f.number == 0 {
				f.number = n
				if pos.IsValid() {
					f.numberPos = pos
				}
			}
		}
		for _, t := range host {
			switch t.Kind {
			case flow.Env:
				f.hostEnv = t.Text
			case flow.Flag:
				f.hostFlag = t.Text
			case flow.Const:
				if !hostKnown && t.Text != "" {
					hostKnown = true
					f.loopback = t.Text == "localhost" || t.Text == "127.0.0.1" || t.Text == "[::1]" || t.Text == "::1"
				}
			}
		}
	}
	return f
}

// splitAddress finds the colon before the port. whole tells that there is none:
// the alternative is one variable or flag.
func splitAddress(a flow.Alt) (host, port []flow.Atom, whole bool) {
	for i := len(a.Atoms) - 1; i >= 0; i-- {
		t := a.Atoms[i]
		if t.Kind != flow.Const {
			continue
		}
		at := strings.LastIndexByte(t.Text, ':')
		if at < 0 {
			continue
		}
		host = append(host, a.Atoms[:i]...)
		host = append(host, flow.Atom{Kind: flow.Const, Text: t.Text[:at], Pos: t.Pos})
		port = append(port, flow.Atom{Kind: flow.Const, Text: t.Text[at+1:], Pos: t.Pos})
		return host, append(port, a.Atoms[i+1:]...), false
	}
	return nil, a.Atoms, true
}

func portNumber(port []flow.Atom) (n int, pos token.Pos, ok bool) {
	text := ""
	for _, t := range port {
		if t.Kind != flow.Const {
			return 0, 0, false
		}
		text += t.Text
		if t.Text != "" {
			pos = t.Pos
		}
	}
	switch text {
	case "http":
		return 80, pos, true
	case "https":
		return 443, pos, true
	}
	n, err := strconv.Atoi(text)
	return n, pos, err == nil && n >= 0 && n < 65536
}
