package project

import (
	"fmt"
	"maps"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/bightdev/bight/internal/app"
)

// from is where the value at the first of the paths that exists is written.
func (f *File) from(why string, paths ...string) app.From {
	return app.From{File: Name, Line: f.first(paths...).line, Confidence: app.Certain, Why: why}
}

// Apply overrides the app's facts, links excepted: those are decided after it,
// and then changed by Link. What names something that is not there is an error.
func (f *File) Apply(a *app.App) error {
	d := &decoder{at: f.at}
	if f.Name != "" {
		a.Name = f.Name
	}
	for _, name := range slices.Sorted(maps.Keys(f.Services)) {
		f.applyService(d, a, name, f.Services[name])
	}
	a.Services = slices.DeleteFunc(a.Services, func(s *app.Service) bool { return f.Services[s.Name].Ignore })
	for _, name := range slices.Sorted(maps.Keys(f.Tasks)) {
		t := f.Tasks[name]
		if t.Service != "" && a.Service(t.Service) == nil {
			d.fail(f.at["tasks."+name+".service"], "task %s runs in service %s, which does not exist%s", name, t.Service, d.known(a, t.Service))
			continue
		}
		a.Tasks = append(a.Tasks, &app.Task{Name: name, Command: t.Command, Service: t.Service, From: f.from("", "tasks."+name)})
	}
	for _, name := range slices.Sorted(maps.Keys(f.Linters)) {
		l := f.Linters[name]
		a.Linters = append(a.Linters, &app.Linter{Name: name, Command: l.Command, Files: l.Files, From: f.from("", "linters."+name)})
	}
	return d.joined()
}

func (d *decoder) known(a *app.App, name string) string {
	var names []string
	for _, s := range a.Services {
		names = append(names, s.Name)
	}
	if hint := didYouMean(name, names); hint != "" {
		return hint
	}
	if len(names) == 0 {
		return "; there is no service"
	}
	return "; services are " + strings.Join(names, ", ")
}

func (f *File) applyService(d *decoder, a *app.App, name string, o Service) {
	at := "services." + name
	s := f.find(a, name, o)
	if s == nil {
		if s = f.added(d, a, name, o); s == nil {
			return
		}
		a.Services = append(a.Services, s)
	}
	if o.Ignore {
		return
	}
	s.Entry = f.from("", at)
	f.applyBuild(s, at+".build", o.Build)
	if o.Args != nil {
		s.Args, s.ArgsFrom = o.Args, f.from("set by you", at+".args")
	}
	if o.Ports != nil {
		f.applyPorts(s, at, o.Ports)
	}
	for env, v := range o.Env {
		s.SetEnv(env, v.Value, f.from("set by you", at+".env."+env))
		e := s.EnvVar(env)
		e.Secret = e.Secret || v.Secret
	}
	if o.Ports == nil {
		f.followPorts(s, at, o)
	}
	if o.Health != nil {
		f.applyHealth(s, at+".health", *o.Health)
	}
	if o.Replicas != nil {
		s.Replicas, s.ReplicasFrom = int32(*o.Replicas), f.from("set by you", at+".replicas")
	}
	if o.Test != "" {
		s.Test = &app.Test{Command: o.Test, Report: o.TestReport, From: f.from("", at+".test")}
	}
	if o.Volumes != nil {
		s.Volumes = nil
	}
	for i, v := range o.Volumes {
		size := v.Size
		if size == "" {
			size = "1Gi"
		}
		s.Volumes = append(s.Volumes, app.Volume{
			Name: v.Name, Path: v.Path, Size: size, From: f.from("", fmt.Sprintf("%s.volumes.%d", at, i)),
		})
	}
}

// find is the service that the entry speaks of: the one of that name, or the one
// in that directory, which gets the name.
func (f *File) find(a *app.App, name string, o Service) *app.Service {
	dir := f.Dirs()[name]
	var named []*app.Service
	for _, s := range a.Services {
		if dir != "" && s.Source.Dir == dir {
			s.Name = name
			s.Source.From = f.from("named by you", "services."+name+".source", "services."+name)
			return s
		}
		if s.Name == name {
			named = append(named, s)
		}
	}
	if dir != "" || len(named) != 1 {
		return nil
	}
	return named[0]
}

// added is a service that detection did not find.
func (f *File) added(d *decoder, a *app.App, name string, o Service) *app.Service {
	at := "services." + name
	s := &app.Service{Name: name}
	switch {
	case o.Build != nil && o.Build.Static != "":
		dir := path.Clean(o.Build.Static)
		s.Source = app.Source{Dir: dir, From: f.from("added by you", at)}
		s.Build = app.Build{Kind: app.BuildStatic, Root: dir, From: f.from("", at+".build.static")}
		from := f.from("the port of the file server", at)
		s.Ports = []app.Port{{Name: "http", Number: 8080, Protocol: app.HTTP, From: from}}
		s.Health = &app.Health{Kind: app.HealthHTTP, Port: 8080, Path: "/", From: from}
	case o.Ignore:
		d.fail(f.at[at], "service %s does not exist, so it cannot be ignored%s", name, d.known(a, name))
		return nil
	case o.Source != "" || o.Build != nil && o.Build.Go != "":
		d.fail(f.first(at+".source", at+".build.go", at), "service %s: no Go package main and no index.html in %s", name, f.Dirs()[name])
		return nil
	default:
		d.fail(f.at[at], "service %s does not exist%s. To add it, write source: DIR", name, d.known(a, name))
		return nil
	}
	return s
}

func (f *File) applyBuild(s *app.Service, at string, b *Build) {
	if b == nil {
		return
	}
	if b.Static != "" {
		dir := path.Clean(b.Static)
		s.Build = app.Build{Kind: app.BuildStatic, Root: dir, From: f.from("", at+".static")}
	}
	if b.Assets == nil {
		return
	}
	s.Build.Assets = nil
	for i, x := range b.Assets {
		p, as := assetPair(x)
		s.Build.Assets = append(s.Build.Assets, app.Asset{Path: p, As: as, From: f.from("", fmt.Sprintf("%s.assets.%d", at, i))})
	}
}

// applyPorts replaces the ports. Where the code lets a variable or a flag decide
// and its own default is another number, that is set too.
func (f *File) applyPorts(s *app.Service, at string, ports []Port) {
	found := s.Ports
	s.Ports = nil
	for i, p := range ports {
		here := fmt.Sprintf("%s.ports.%d", at, i)
		from := f.from("set by you", here)
		n := app.Port{Name: p.Name, Number: p.Number, Protocol: p.Protocol, Env: p.Env, From: from}
		if n.Protocol == "" {
			n.Protocol = app.HTTP
		}
		old := before(found, n, i)
		if n.Name == "" {
			n.Name = n.Protocol
			if slices.ContainsFunc(s.Ports, func(o app.Port) bool { return o.Name == n.Name }) {
				n.Name = fmt.Sprintf("%s-%d", n.Protocol, n.Number)
			}
		}
		if n.Env == "" && old != nil {
			n.Env, n.Flag = old.Env, old.Flag
		}
		s.Ports = append(s.Ports, n)
		if old != nil && old.Number == n.Number && p.Env == "" {
			continue
		}
		number := strconv.Itoa(n.Number)
		switch {
		case n.Env != "":
			v := number
			if e := s.EnvVar(n.Env); e != nil && strings.Contains(e.Default+e.Value, ":") {
				v = ":" + number
			}
			s.SetEnv(n.Env, v, from)
		case n.Flag != "":
			s.SetFlag(n.Flag, flagValue(s, n.Flag, number))
		}
	}
	if s.Health != nil && !slices.ContainsFunc(s.Ports, func(p app.Port) bool { return p.Number == s.Health.Port }) {
		i := slices.IndexFunc(found, func(p app.Port) bool { return p.Number == s.Health.Port })
		if i < 0 || i >= len(s.Ports) {
			i = 0
		}
		s.Health.Port = s.Ports[i].Number
	}
}

// followPorts changes the numbers of ports that a variable or a flag decides,
// where the file sets that to another number.
func (f *File) followPorts(s *app.Service, at string, o Service) {
	for i := range s.Ports {
		p := &s.Ports[i]
		value, here := "", at+".args"
		if v, ok := o.Env[p.Env]; ok && p.Env != "" {
			value, here = v.Value, at+".env."+p.Env
		} else if p.Flag != "" {
			value = flagIn(o.Args, p.Flag)
		}
		n, err := strconv.Atoi(value[strings.LastIndexByte(value, ':')+1:])
		if err != nil || n < 1 || n > 65535 || n == p.Number {
			continue
		}
		if s.Health != nil && s.Health.Port == p.Number {
			s.Health.Port = n
		}
		p.Number, p.From = n, f.from("set by you", here)
	}
}

// flagIn is the value that arguments give to a flag: --name=value, -name value.
func flagIn(args []string, name string) string {
	for i, a := range args {
		got, value, ok := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if got != name || !strings.HasPrefix(a, "-") {
			continue
		}
		if !ok && i+1 < len(args) {
			value = args[i+1]
		}
		return value
	}
	return ""
}

// flagValue keeps the form of what the flag was set to before: PORT or :PORT.
func flagValue(s *app.Service, flag, number string) string {
	for _, a := range s.Args {
		if v, ok := strings.CutPrefix(a, "--"+flag+"="); ok && strings.Contains(v, ":") {
			return ":" + number
		}
	}
	if strings.Contains(flag, "addr") || strings.Contains(flag, "listen") || strings.Contains(flag, "bind") {
		return ":" + number
	}
	return number
}

// before is the port that was found in the place of a given one.
func before(found []app.Port, p app.Port, i int) *app.Port {
	for j := range found {
		if found[j].Number == p.Number || p.Name != "" && found[j].Name == p.Name || p.Env != "" && found[j].Env == p.Env {
			return &found[j]
		}
	}
	if i < len(found) && found[i].Protocol == p.Protocol {
		return &found[i]
	}
	return nil
}

func (f *File) applyHealth(s *app.Service, at string, h Health) {
	n := app.Health{Kind: h.Kind, Path: h.Path, Port: h.Port, From: f.from("set by you", at)}
	if n.Kind == "" {
		n.Kind = app.HealthTCP
		if n.Path != "" {
			n.Kind = app.HealthHTTP
		}
	}
	if p := s.Port(); n.Port == 0 && p != nil {
		n.Port = p.Number
	}
	s.Health = &n
}

// Link overrides the app's links.
func (f *File) Link(a *app.App) error {
	d := &decoder{at: f.at}
	for _, name := range slices.Sorted(maps.Keys(f.Services)) {
		s := a.Service(name)
		if s == nil {
			continue
		}
		for _, env := range slices.Sorted(maps.Keys(f.Services[name].Links)) {
			f.link(d, a, s, env, f.Services[name].Links[env])
		}
	}
	return d.joined()
}

func (f *File) link(d *decoder, a *app.App, s *app.Service, env, target string) {
	at := "services." + s.Name + ".links." + env
	name, port, hasPort := strings.Cut(target, ":")
	to := a.Service(name)
	if to == nil {
		d.fail(f.at[at], "%s links to service %s, which does not exist%s", env, name, d.known(a, name))
		return
	}
	if to.Port() == nil {
		d.fail(f.at[at], "%s links to service %s, which listens on no port", env, name)
		return
	}
	p := *to.Port()
	if hasPort {
		i := slices.IndexFunc(to.Ports, func(p app.Port) bool { return p.Name == port || strconv.Itoa(p.Number) == port })
		if i < 0 {
			var have []string
			for _, p := range to.Ports {
				have = append(have, fmt.Sprintf("%d (%s)", p.Number, p.Name))
			}
			d.fail(f.at[at], "%s links to port %s of %s, which has %s", env, port, name, strings.Join(have, ", "))
			return
		}
		p = to.Ports[i]
	}
	from := f.from("set by you", at)
	l := app.Link{To: name, Port: p.Number, Env: env, Value: f.linkValue(s, env, to.Name, p), From: from}
	s.Links = slices.DeleteFunc(s.Links, func(o app.Link) bool { return o.Env == env })
	s.Links = append(s.Links, l)
	s.SetEnv(env, l.Value, from)
}

// linkValue keeps the form that the code's own default, or what was found, has.
func (f *File) linkValue(s *app.Service, env, to string, p app.Port) string {
	addr := net.JoinHostPort(to, strconv.Itoa(p.Number))
	like := ""
	if e := s.EnvVar(env); e != nil {
		like = e.Default
	}
	for _, l := range s.Links {
		if l.Env == env {
			like = l.Value
		}
	}
	low := strings.ToLower(env)
	switch scheme, _, ok := strings.Cut(like, "://"); {
	case ok:
		return strings.Replace(scheme, "https", "http", 1) + "://" + addr
	case like != "" && !strings.Contains(like, ":") && !strings.HasSuffix(low, "addr"):
		return to
	case like == "" && (strings.HasSuffix(low, "url") || strings.HasSuffix(low, "uri")):
		return "http://" + addr
	}
	return addr
}
