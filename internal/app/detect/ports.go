package detect

import (
	"fmt"
	"go/token"
	"slices"
	"strconv"
	"strings"

	"github.com/bightdev/bight/internal/app"
)

// builder makes a service of one program.
type builder struct {
	*program
	svc         *app.Service
	facts       []portFact // of svc.Ports, in the same order
	notes       []app.Note
	asks        []app.Question
	taken       map[int]bool
	neededFlags []neededFlag
}

func (b *builder) from(pos token.Pos, c app.Confidence, why string, args ...any) app.From {
	file, line := b.p.Loader.Position(pos)
	if len(args) > 0 {
		why = fmt.Sprintf(why, args...)
	}
	return app.From{File: file, Line: line, Confidence: c, Why: why}
}

func (b *builder) note(pos token.Pos, format string, args ...any) {
	b.notes = append(b.notes, app.Note{Text: fmt.Sprintf(format, args...), From: b.from(pos, app.Certain, "")})
}

// sideWords name ports that are not what a service is for.
var sideWords = []string{"metrics", "metric", "prometheus", "prom", "admin", "debug", "pprof", "health", "healthz", "probe", "telemetry", "status", "monitoring"}

func (f portFact) side() string {
	text := strings.ToLower(f.env + " " + f.flag + " " + f.function)
	for _, w := range sideWords {
		if strings.Contains(text, w) {
			switch w {
			case "metric", "prometheus", "prom", "telemetry", "monitoring":
				return "metrics"
			case "pprof":
				return "debug"
			case "healthz", "probe", "status":
				return "health"
			}
			return w
		}
	}
	if f.number == 6060 {
		return "debug"
	}
	return ""
}

// rank orders ports: the one that a service is for comes first.
func (f portFact) rank() int {
	r := 0
	if f.side() != "" {
		r += 16
	}
	if f.conditional {
		r += 8
	}
	if f.tls {
		r += 4
	}
	switch f.proto {
	case app.HTTP:
	case app.GRPC:
		r++
	default:
		r += 2
	}
	return r
}

// ports decides which ports the service has. It reports whether the program
// serves at all.
func (b *builder) ports() bool {
	b.taken = map[int]bool{}
	var known, open []portFact
	serves := false
	for _, l := range b.listeners {
		f := readAddress(l)
		switch {
		case f.number > 0:
			known = append(known, f)
		case f.env != "" || f.flag != "":
			open = append(open, f)
		case f.zero:
			continue // any free port: nobody can know it
		default:
			open = append(open, f)
		}
		serves = true
	}
	slices.SortStableFunc(known, func(x, y portFact) int { return x.rank() - y.rank() })
	slices.SortStableFunc(open, func(x, y portFact) int { return x.rank() - y.rank() })
	for _, f := range known {
		b.addKnown(f)
	}
	for _, f := range open {
		b.addOpen(f)
	}
	b.sortPorts()
	b.namePorts()
	return serves
}

func (b *builder) addKnown(f portFact) {
	if i := b.same(f); i >= 0 {
		b.merge(i, f)
		return
	}
	c, why := app.Certain, fmt.Sprintf("the code listens on %d", f.number)
	switch {
	case f.env != "":
		why = "default of $" + f.env
	case f.flag != "":
		why = "default of --" + f.flag
	}
	if f.conditional || f.likely {
		c = app.Likely
	}
	if f.loopback && b.openUp(f) {
		f.loopback = false
		why += ", set to listen on all addresses instead of this machine's own"
	}
	b.add(f, b.from(f.numberPos, c, why))
}

// same is the port that f is another way to listen on, or -1.
func (b *builder) same(f portFact) int {
	return slices.IndexFunc(b.facts, func(o portFact) bool {
		if o.number != f.number || (o.proto == app.UDP) != (f.proto == app.UDP) {
			return false
		}
		return o.proto == f.proto || o.numberPos == f.numberPos || o.proto == app.TCP || f.proto == app.TCP || o.conditional || f.conditional
	})
}

func (b *builder) merge(i int, f portFact) {
	if b.svc.Ports[i].Protocol == app.TCP && f.proto != app.TCP {
		b.svc.Ports[i].Protocol, b.facts[i].proto = f.proto, f.proto
	}
	if b.facts[i].env == "" && f.env != "" {
		b.facts[i].env, b.svc.Ports[i].Env = f.env, f.env
	}
	if b.facts[i].flag == "" && f.flag != "" {
		b.facts[i].flag, b.svc.Ports[i].Flag = f.flag, f.flag
	}
}

func (b *builder) add(f portFact, from app.From) {
	proto := f.proto
	if f.tls {
		proto = app.TCP
	}
	b.taken[f.number] = true
	if f.env != "" && b.svc.EnvVar(f.env) == nil { // a library reads it
		e := app.EnvVar{Name: f.env, From: from, Default: strconv.Itoa(f.number)}
		if f.wholeEnv {
			e.Default = ":" + e.Default
		}
		b.svc.Env = append(b.svc.Env, e)
	}
	b.facts = append(b.facts, f)
	b.svc.Ports = append(b.svc.Ports, app.Port{Number: f.number, Protocol: proto, Env: f.env, Flag: f.flag, From: from})
}

// openUp makes a server that listens on this machine only listen on all
// addresses, where a variable or a flag lets it, and reports whether it did.
func (b *builder) openUp(f portFact) bool {
	from := b.from(f.numberPos, app.Certain, "listens on this machine only by default; other pods could not reach it")
	all := ":" + strconv.Itoa(f.number)
	switch {
	case f.hostEnv != "":
		b.setEnv(f.hostEnv, "0.0.0.0", from)
	case f.hostFlag != "":
		b.svc.SetFlag(f.hostFlag, "0.0.0.0")
	case f.env != "" && f.wholeEnv:
		b.setEnv(f.env, all, from)
	case f.flag != "" && f.wholeFlag:
		b.svc.SetFlag(f.flag, all)
	default:
		b.note(f.numberPos, "%s listens on 127.0.0.1:%d only, so no other service can reach it; listen on \":%d\" instead", b.svc.Name, f.number, f.number)
		return false
	}
	return true
}

func (b *builder) setEnv(name, value string, from app.From) {
	e := b.svc.EnvVar(name)
	if e == nil {
		b.svc.SetEnv(name, value, from)
		return
	}
	e.Value, e.Set = value, true
	e.From.Why = from.Why
}

// addOpen is for a port without a number of its own: one is chosen and set.
func (b *builder) addOpen(f portFact) {
	control := f.env != "" || f.flag != ""
	if len(b.facts) > 0 && b.offByDefault(f) {
		return
	}
	if i := slices.IndexFunc(b.facts, func(o portFact) bool { return o.env != "" && o.env == f.env }); i >= 0 {
		b.merge(i, f)
		return
	}
	if !control {
		if len(b.facts) > 0 {
			b.note(f.pos, "%s also listens on an address that cannot be told from the source; left alone. To open it: services: {%s: {ports: [...]}} in bight.yaml", b.svc.Name, b.svc.Name)
			return
		}
		b.asks = append(b.asks, app.Question{
			Service: b.svc.Name,
			Text: fmt.Sprintf("Which port does %s listen on? Its address cannot be told from the source. Say it in bight.yaml: services: {%s: {ports: [{number: 8080, protocol: %s}]}}",
				b.svc.Name, b.svc.Name, f.proto),
			From: b.from(f.pos, app.Certain, "listens here"),
		})
		return
	}
	f.number = b.free(f)
	n := strconv.Itoa(f.number)
	pos := f.controlAt
	if !pos.IsValid() {
		pos = f.pos
	}
	if f.env != "" {
		v := n
		if f.wholeEnv {
			v = ":" + n
		}
		from := b.from(pos, app.Certain, "$%s has no default; %d was chosen", f.env, f.number)
		b.add(f, from)
		b.setEnv(f.env, v, from)
		return
	}
	v := n
	if f.wholeFlag {
		v = ":" + n
	}
	b.add(f, b.from(pos, app.Certain, "--%s has no default; %d was chosen", f.flag, f.number))
	b.svc.SetFlag(f.flag, v)
}

// offByDefault reports whether a further port is opened only when it is asked
// for.
func (b *builder) offByDefault(f portFact) bool {
	switch {
	case f.zero:
		return true
	case b.requires(f.env):
		return false
	case f.env != "" && b.svc.EnvVar(f.env) == nil:
		return true // a key of a configuration that happens to have a variable
	case f.env == "" && f.flag != "":
		return f.wholeFlag || f.conditional
	}
	return f.conditional
}

func (b *builder) requires(env string) bool {
	e := b.svc.EnvVar(env)
	return e != nil && e.Required
}

func (b *builder) free(f portFact) int {
	n := 8080
	switch {
	case f.side() == "metrics":
		n = 9090
	case f.proto == app.GRPC:
		n = 50051
	}
	for b.taken[n] {
		n++
	}
	return n
}

func (b *builder) sortPorts() {
	order := make([]int, len(b.facts))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int { return b.facts[x].rank() - b.facts[y].rank() })
	ports, facts := make([]app.Port, len(order)), make([]portFact, len(order))
	for i, o := range order {
		ports[i], facts[i] = b.svc.Ports[o], b.facts[o]
	}
	b.svc.Ports, b.facts = ports, facts
}

func (b *builder) namePorts() {
	used := map[string]bool{}
	for i := range b.svc.Ports {
		p, f := &b.svc.Ports[i], b.facts[i]
		name := p.Protocol
		if f.tls && f.proto == app.HTTP {
			name = "https"
		}
		if s := f.side(); s != "" && i > 0 {
			name = s
		}
		if used[name] {
			name = fmt.Sprintf("%s-%d", name, p.Number)
		}
		used[name] = true
		p.Name = name
	}
}
