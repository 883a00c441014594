package detect

import (
	"cmp"
	"context"
	"fmt"
	"go/token"
	"slices"
	"strings"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/app/detect/flow"
)

// program is one package main and what was read from it.
type program struct {
	dir       string // of the package
	module    string // its module's directory
	mod       *module
	p         *flow.Program
	listeners []listener
	reads     []flow.Read
	args      []string
	several   []string // subcommands that serve, when it is not clear which is meant
}

// readProgram loads the package main in dir.
func readProgram(ctx context.Context, l *flow.Loader, mods *modules, dir string) (*program, error) {
	p, err := l.Load(ctx, dir)
	if err != nil {
		return nil, err
	}
	out := &program{dir: dir, p: p, mod: mods.of(dir)}
	if out.mod != nil {
		out.module = out.mod.dir
	}
	out.listeners = listeners(p)
	if len(out.listeners) == 0 {
		return out, nil
	}
	path, chosen, several := chooseCommand(p, out.listeners)
	out.args, out.several = path, several
	if chosen != nil {
		p.Run(chosen.run, chosen.lit)
	}
	out.reads = p.Reads()
	return out, nil
}

// serves reports whether the program listens on any port that can be known.
func (g *program) serves() bool {
	return slices.ContainsFunc(g.listeners, func(l listener) bool {
		f := readAddress(l)
		return f.number > 0 || f.env != "" || f.flag != "" || !f.zero
	})
}

// built is a service and what else its program told.
type built struct {
	svc        *app.Service
	candidates []app.Candidate
	notes      []app.Note
	questions  []app.Question
	owned      []string // directories that it serves or has compiled in
	files      bool     // it serves files from somewhere
	flags      []neededFlag
}

// neededFlag is a flag that the program ends without.
type neededFlag struct {
	name string
	from app.From
}

// build makes a service of the program.
func (g *program) build(name string) built {
	b := &builder{program: g, svc: &app.Service{Name: name}}
	pos := g.p.MainPos()
	pkg := "./" + strings.TrimPrefix(strings.TrimPrefix(g.dir, g.module), "/")
	if g.module == "." && g.dir != "." {
		pkg = "./" + g.dir
	}
	if g.dir == g.module {
		pkg = "."
	}
	b.svc.Source = app.Source{Dir: g.dir, From: b.from(pos, app.Certain, "package main that listens")}
	b.svc.Build = app.Build{Kind: app.BuildGo, Module: g.module, Package: pkg, From: b.from(pos, app.Certain, "package main")}
	if b.svc.Args = slices.Clone(g.args); len(g.args) > 0 {
		b.svc.ArgsFrom = b.from(pos, app.Likely, "the command that listens")
	}
	b.env()
	b.ports()
	b.health()
	b.assets()
	if len(g.several) > 0 {
		b.asks = append(b.asks, app.Question{
			Service: name,
			Text: fmt.Sprintf("Which command of %s serves: %s? Write in bight.yaml: services: {%s: {args: [%s]}}",
				name, strings.Join(g.several, " or "), name, g.several[0]),
			From: b.from(pos, app.Certain, "several commands listen"),
		})
	}
	candidates := b.candidates()
	return built{
		svc: b.svc, candidates: candidates, notes: b.notes, questions: b.asks,
		owned: b.owned(), files: servesFiles(g.p), flags: b.neededFlags,
	}
}

// ambient are variables that the system sets, or that are not the app's.
var ambient = map[string]bool{
	"PATH": true, "HOME": true, "HOSTNAME": true, "USER": true, "PWD": true, "TMPDIR": true, "TERM": true, "SHELL": true,
	"NO_COLOR": true, "KUBERNETES_SERVICE_HOST": true, "KUBERNETES_SERVICE_PORT": true, "GOMAXPROCS": true, "GOPATH": true,
	"GODEBUG": true, "GOGC": true, "GOTRACEBACK": true, "SSLKEYLOGFILE": true, "HOMEDRIVE": true, "HOMEPATH": true, "SYSTEMDRIVE": true,
	"AppData": true, "home": true, "WT_SESSION": true, "LANG": true, "EDITOR": true, "APPDATA": true, "USERPROFILE": true, "TEMP": true, "TMP": true, "INVOCATION_ID": true,
	"JOURNAL_STREAM": true, "NOTIFY_SOCKET": true, "LISTEN_FDS": true, "LISTEN_PID": true,
}

// env lists the variables that the program reads.
func (b *builder) env() {
	needed := map[string]token.Pos{}
	for _, n := range b.p.Needs() {
		if n.Kind == flow.Env {
			if _, dup := needed[n.Text]; !dup {
				needed[n.Text] = n.Pos
			}
		}
	}
	byName := map[string][]flow.Read{}
	for _, r := range b.reads {
		if !ambient[r.Name] && !strings.HasPrefix(r.Name, "XDG_") {
			byName[r.Name] = append(byName[r.Name], r)
		}
	}
	for name, list := range byName {
		slices.SortStableFunc(list, func(x, y flow.Read) int {
			fx, lx := b.p.Loader.Position(x.Pos)
			fy, ly := b.p.Loader.Position(y.Pos)
			return cmp.Or(boolFirst(x.HasDefault, y.HasDefault), cmp.Compare(fx, fy), cmp.Compare(lx, ly))
		})
		first := list[0]
		e := app.EnvVar{Name: name, Default: first.Default, Secret: app.SecretName(name)}
		_, e.Required = needed[name]
		for _, r := range list {
			e.Required = e.Required || r.Must && r.Always
		}
		why := "read here"
		switch {
		case first.HasDefault && first.Default != "":
			e.Required = false
			why = "read here, with a default"
		case first.HasDefault && !e.Required:
			why = "read here, may be empty"
		case e.Required:
			why = "the program ends without it"
		}
		e.From = b.from(first.Pos, app.Certain, why)
		b.svc.Env = append(b.svc.Env, e)
	}
	slices.SortFunc(b.svc.Env, func(x, y app.EnvVar) int { return strings.Compare(x.Name, y.Name) })
}

func boolFirst(x, y bool) int {
	switch {
	case x == y:
		return 0
	case x:
		return -1
	}
	return 1
}

// candidates are the variables and flags that may carry other services'
// addresses: all but those that say where the program itself listens.
func (b *builder) candidates() []app.Candidate {
	own := map[string]bool{}
	for _, l := range b.listeners {
		f := readAddress(l)
		for _, n := range []string{f.env, f.hostEnv, "--" + f.flag, "--" + f.hostFlag} {
			own[n] = true
		}
	}
	used := uses(b.p)
	var out []app.Candidate
	for _, e := range b.svc.Env {
		if own[e.Name] || e.Secret && !strings.Contains(e.Default, "://") {
			continue
		}
		u, dialled := used[flow.Atom{Kind: flow.Env, Text: e.Name}]
		out = append(out, app.Candidate{
			Service: b.svc.Name, Env: e.Name, Default: e.Default, Required: e.Required,
			Form: u.form, Scheme: u.scheme, GRPC: u.grpc, Dialled: dialled, From: e.From,
		})
	}
	needed := map[string]bool{}
	for _, n := range b.p.Needs() {
		if n.Kind == flow.Flag {
			needed[n.Text] = true
		}
	}
	for _, f := range b.p.Flags() {
		if own["--"+f.Name] || b.hasEnvTwin(f) {
			continue
		}
		u, dialled := used[flow.Atom{Kind: flow.Flag, Text: f.Name}]
		def := ""
		if c := f.Default.Consts(); len(c) > 0 {
			def = c[0].Text
		}
		out = append(out, app.Candidate{
			Service: b.svc.Name, Flag: f.Name, Default: def, Required: needed[f.Name] && def == "",
			Form: u.form, Scheme: u.scheme, GRPC: u.grpc, Dialled: dialled, From: b.from(f.Pos, app.Certain, "flag"),
		})
		if needed[f.Name] && def == "" {
			b.neededFlags = append(b.neededFlags, neededFlag{f.Name, b.from(f.Pos, app.Certain, "the program ends without it")})
		}
	}
	return out
}

// hasEnvTwin reports whether the flag's default is a variable, which then is the
// candidate.
func (b *builder) hasEnvTwin(f flow.FlagInfo) bool {
	return slices.ContainsFunc(f.Default, func(a flow.Alt) bool {
		t, ok := a.Control()
		return ok && t.Kind == flow.Env
	})
}
