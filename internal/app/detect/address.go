package detect

import (
	"strings"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/app/detect/flow"
)

// use is how a variable or flag is used as an address.
type use struct {
	form   app.Form
	scheme string
	grpc   bool
}

type dialKind uint8

const (
	dialURL  dialKind = iota // an HTTP client: a URL
	dialAddr                 // host:port
	dialGRPC                 // host:port, by a gRPC client
	dialAny                  // an address of some form
)

// dialCall recognises a call that reaches for another program, and which
// argument is the address.
func dialCall(c flow.Callee, args int) (kind dialKind, arg int, ok bool) {
	switch c.Path {
	case "google.golang.org/grpc":
		switch c.Name {
		case "Dial", "NewClient":
			return dialGRPC, 0, c.Recv == ""
		case "DialContext":
			return dialGRPC, 1, c.Recv == ""
		}
		return 0, 0, false
	case "net/http":
		switch c.Name {
		case "Get", "Head", "Post", "PostForm":
			return dialURL, 0, c.Recv == "" || c.Recv == "Client"
		case "NewRequest":
			return dialURL, 1, true
		case "NewRequestWithContext":
			return dialURL, 2, true
		}
		return 0, 0, false
	case "net/url":
		return dialURL, 0, c.Name == "Parse" || c.Name == "ParseRequestURI"
	case "net", "crypto/tls", "net/rpc", "net/rpc/jsonrpc":
		switch c.Name {
		case "Dial", "DialTimeout", "DialHTTP":
			return dialAddr, 1, args > 1
		case "DialContext":
			return dialAddr, 2, args > 2
		}
		return 0, 0, false
	}
	if c.Local || c.Path == "" && !strings.HasPrefix(c.Name, "Dial") {
		return 0, 0, false
	}
	if strings.HasPrefix(c.Name, "Dial") || c.Name == "Connect" || strings.HasPrefix(c.Name, "New") && strings.HasSuffix(c.Name, "Client") {
		return dialAny, -1, true
	}
	return 0, 0, false
}

// uses finds the variables and flags whose values are dialled.
func uses(p *flow.Program) map[flow.Atom]use {
	out := map[flow.Atom]use{}
	for _, s := range p.Sites {
		kind, arg, ok := dialCall(p.Callee(s), len(s.Call.Args))
		if !ok {
			continue
		}
		for i, e := range s.Call.Args {
			if arg >= 0 && i != arg {
				continue
			}
			for _, cs := range p.Expand(e, s) {
				for _, a := range cs.Value {
					record(out, a, kind)
				}
			}
		}
	}
	return out
}

func record(out map[flow.Atom]use, a flow.Alt, kind dialKind) {
	for i, t := range a.Atoms {
		if t.Kind != flow.Env && t.Kind != flow.Flag {
			continue
		}
		before, after := "", ""
		if i > 0 && a.Atoms[i-1].Kind == flow.Const {
			before = a.Atoms[i-1].Text
		}
		if i+1 < len(a.Atoms) && a.Atoms[i+1].Kind == flow.Const {
			after = a.Atoms[i+1].Text
		}
		key := flow.Atom{Kind: t.Kind, Text: t.Text}
		if _, dup := out[key]; dup {
			continue
		}
		if u, ok := readUse(i, before, after, kind); ok {
			out[key] = u
		}
	}
}

// readUse tells from what stands around a value which part of an address it is.
func readUse(i int, before, after string, kind dialKind) (use, bool) {
	u := use{grpc: kind == dialGRPC}
	switch {
	case strings.HasSuffix(before, "://") || strings.HasSuffix(before, ":///") || strings.HasSuffix(before, "@"):
		u.form = app.FormAddr
		if strings.HasPrefix(after, ":") {
			u.form = app.FormHost
		}
	case strings.HasSuffix(before, ":") && i > 0:
		u.form = app.FormPort
	case i > 0:
		return use{}, false // a part of a path or a query
	case strings.HasPrefix(after, ":"):
		u.form = app.FormHost
	case kind == dialURL:
		u.form, u.scheme = app.FormURL, "http"
	case kind == dialAddr || kind == dialGRPC:
		u.form = app.FormAddr
	}
	return u, true
}
