package app

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Place is a file and line as people and editors write them. A name that would
// upset a terminal (control characters, bytes that are no UTF-8) is quoted.
func (f From) Place() string {
	file := f.File
	if file == "" {
		return "."
	}
	if !utf8.ValidString(file) || strings.ContainsFunc(file, func(r rune) bool { return !unicode.IsPrint(r) }) {
		file = strconv.Quote(file)
	}
	if f.Line <= 0 {
		return file
	}
	return fmt.Sprintf("%s:%d", file, f.Line)
}

// Normalize sorts what is documented as sorted and makes absent lists empty
// ones, so that equal apps are printed alike.
func (a *App) Normalize() {
	if a.Services == nil {
		a.Services = []*Service{}
	}
	slices.SortStableFunc(a.Services, func(x, y *Service) int { return cmp.Compare(x.Name, y.Name) })
	for _, s := range a.Services {
		if s.Ports == nil {
			s.Ports = []Port{}
		}
		if s.Env == nil {
			s.Env = []EnvVar{}
		}
		if s.Links == nil {
			s.Links = []Link{}
		}
		slices.SortStableFunc(s.Env, func(x, y EnvVar) int { return cmp.Compare(x.Name, y.Name) })
		slices.SortStableFunc(s.Links, func(x, y Link) int { return cmp.Compare(x.Env+x.Flag, y.Env+y.Flag) })
	}
	slices.SortStableFunc(a.Tasks, func(x, y *Task) int { return cmp.Compare(x.Name, y.Name) })
	slices.SortStableFunc(a.Questions, func(x, y Question) int {
		return cmp.Or(cmp.Compare(x.Service, y.Service), cmp.Compare(x.From.File, y.From.File), cmp.Compare(x.From.Line, y.From.Line))
	})
	slices.SortStableFunc(a.Notes, func(x, y Note) int {
		return cmp.Or(cmp.Compare(x.From.File, y.From.File), cmp.Compare(x.From.Line, y.From.Line), cmp.Compare(x.Text, y.Text))
	})
	a.Notes = slices.CompactFunc(a.Notes, func(x, y Note) bool { return x == y })
}

// EnvVar returns the variable of that name, or nil.
func (s *Service) EnvVar(name string) *EnvVar {
	i := slices.IndexFunc(s.Env, func(e EnvVar) bool { return e.Name == name })
	if i < 0 {
		return nil
	}
	return &s.Env[i]
}

// MarshalJSON leaves out the value of a secret: JSON is what is shown and logged.
func (e EnvVar) MarshalJSON() ([]byte, error) {
	type plain EnvVar // without this method
	p := plain(e)
	if p.Secret {
		p.Value = ""
	}
	return json.Marshal(p)
}

// SetEnv gives the pod a value for a variable, which it adds if need be.
func (s *Service) SetEnv(name, value string, from From) {
	e := s.EnvVar(name)
	if e == nil {
		s.Env = append(s.Env, EnvVar{Name: name, Secret: SecretName(name)})
		e = &s.Env[len(s.Env)-1]
	}
	e.Value, e.Set, e.From = value, true, from
}

// SetFlag gives the program a flag, in place of an earlier value of it.
func (s *Service) SetFlag(name, value string) {
	var args []string
	for i := 0; i < len(s.Args); i++ {
		switch {
		case !setsFlag(s.Args[i], name):
			args = append(args, s.Args[i])
		case !strings.Contains(s.Args[i], "="):
			i++ // its value is the next
		}
	}
	s.Args = append(args, "--"+name+"="+value)
}

// HasFlag reports whether the program is given a flag, with one dash or two.
func (s *Service) HasFlag(name string) bool {
	return slices.ContainsFunc(s.Args, func(arg string) bool { return setsFlag(arg, name) })
}

func setsFlag(arg, flag string) bool {
	name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	return strings.HasPrefix(arg, "-") && name == flag
}

// problems gathers what is wrong, each with its place.
type problems []error

func (p *problems) add(from From, format string, args ...any) {
	*p = append(*p, fmt.Errorf("%s: %s", from.Place(), fmt.Sprintf(format, args...)))
}

// InvalidError is every rule that an app breaks, each with file and line.
type InvalidError struct{ Problems []error }

func (e *InvalidError) Error() string { return errors.Join(e.Problems...).Error() }

// Unwrap gives the single problems.
func (e *InvalidError) Unwrap() []error { return e.Problems }

// Validate returns an *InvalidError when the app cannot be deployed as it is.
func (a *App) Validate() error {
	var p problems
	root := From{File: "bight.yaml"}
	if !ValidLabel(a.Name) {
		p.add(root, "the app's name %q is no DNS label (a-z, 0-9 and dashes, a letter first, at most %d characters); write a valid name: in bight.yaml", a.Name, MaxLabel)
	}
	seen := map[string]*Service{}
	for _, s := range a.Services {
		if o := seen[s.Name]; o != nil {
			p.add(s.Source.From, "two services are called %s: %s (%s) and %s (%s); give one another name in bight.yaml: "+
				"services: {NAME: {source: %s}}", s.Name, o.Source.Dir, o.Source.From.Place(), s.Source.Dir, s.Source.From.Place(), s.Source.Dir)
			continue
		}
		seen[s.Name] = s
	}
	for _, s := range a.Services {
		a.validateService(s, &p)
	}
	for _, t := range a.Tasks {
		if t.Service != "" && a.Service(t.Service) == nil {
			p.add(t.From, "task %s runs in service %s, which does not exist; services are %s", t.Name, t.Service, a.serviceList())
		}
		if len(t.Command) == 0 {
			p.add(t.From, "task %s has no command", t.Name)
		}
	}
	if len(p) == 0 {
		return nil
	}
	return &InvalidError{Problems: p}
}

func (a *App) serviceList() string {
	if len(a.Services) == 0 {
		return "none"
	}
	return strings.Join(serviceNames(a.Services), ", ")
}

func (a *App) validateService(s *Service, p *problems) {
	switch {
	case len(s.Name) > MaxLabel:
		p.add(s.Source.From, "service name %q has %d characters; Kubernetes allows %d: give it a shorter name", s.Name, len(s.Name), MaxLabel)
	case !ValidLabel(s.Name):
		p.add(s.Source.From, "service name %q is no DNS label (a-z, 0-9 and dashes, a letter first)", s.Name)
	}
	if s.Build.Kind != BuildGo && s.Build.Kind != BuildStatic {
		p.add(s.Build.From, "service %s: build %q is neither go nor static", s.Name, s.Build.Kind)
	}
	for _, x := range s.Build.Assets {
		if !inside(x.Path) || !inside(x.As) {
			p.add(x.From, "service %s: asset %q is outside of the app's directory", s.Name, x.Path)
		}
	}
	if s.Replicas < 0 {
		p.add(s.Entry, "service %s: replicas is %d; it cannot be negative", s.Name, s.Replicas)
	}
	validatePorts(s, p)
	for i, e := range s.Env {
		if !ValidEnvName(e.Name) {
			p.add(e.From, "service %s: %q is no name for an environment variable", s.Name, e.Name)
		}
		if slices.ContainsFunc(s.Env[:i], func(o EnvVar) bool { return o.Name == e.Name }) {
			p.add(e.From, "service %s: $%s is listed twice", s.Name, e.Name)
		}
	}
	for _, l := range s.Links {
		to := a.Service(l.To)
		switch {
		case to == nil:
			p.add(l.From, "service %s: %s links to service %s, which does not exist; services are %s", s.Name, l.Env+l.Flag, l.To, a.serviceList())
		case !slices.ContainsFunc(to.Ports, func(x Port) bool { return x.Number == l.Port }):
			p.add(l.From, "service %s: %s links to port %d of %s, which has %s", s.Name, l.Env+l.Flag, l.Port, l.To, portList(to))
		}
	}
	if h := s.Health; h != nil && !slices.ContainsFunc(s.Ports, func(x Port) bool { return x.Number == h.Port }) {
		p.add(h.From, "service %s: health is asked on port %d, but it has %s", s.Name, h.Port, portList(s))
	}
	for i, v := range s.Volumes {
		if !path.IsAbs(v.Path) {
			p.add(v.From, "service %s: volume %s: path %q is not absolute", s.Name, v.Name, v.Path)
		}
		if !ValidLabel(v.Name) {
			p.add(v.From, "service %s: volume name %q is no DNS label", s.Name, v.Name)
		}
		if slices.ContainsFunc(s.Volumes[:i], func(o Volume) bool { return o.Name == v.Name || o.Path == v.Path }) {
			p.add(v.From, "service %s: volume %s (%s) is listed twice", s.Name, v.Name, v.Path)
		}
	}
}

func validatePorts(s *Service, p *problems) {
	for i, x := range s.Ports {
		if x.Number < 1 || x.Number > 65535 {
			p.add(x.From, "service %s: port %d is not between 1 and 65535", s.Name, x.Number)
		}
		if !slices.Contains([]string{HTTP, GRPC, TCP, UDP}, x.Protocol) {
			p.add(x.From, "service %s: port %d: protocol %q is none of http, grpc, tcp, udp", s.Name, x.Number, x.Protocol)
		}
		if len(x.Name) > 15 || !ValidLabel(x.Name) {
			p.add(x.From, "service %s: port name %q is not a DNS label of at most 15 characters", s.Name, x.Name)
		}
		for _, o := range s.Ports[:i] {
			if o.Number == x.Number && (o.Protocol == UDP) == (x.Protocol == UDP) {
				p.add(x.From, "service %s: port %d is used twice: for %s (%s) and for %s (%s); let them listen on different ports",
					s.Name, x.Number, o.Name, o.From.Place(), x.Name, x.From.Place())
			} else if o.Name == x.Name {
				p.add(x.From, "service %s: two ports are called %s: %d (%s) and %d (%s)", s.Name, x.Name, o.Number, o.From.Place(), x.Number, x.From.Place())
			}
		}
	}
}

func portList(s *Service) string {
	if len(s.Ports) == 0 {
		return "no ports"
	}
	var out []string
	for _, p := range s.Ports {
		out = append(out, fmt.Sprint(p.Number))
	}
	return "ports " + strings.Join(out, ", ")
}

func inside(p string) bool {
	return p != "" && !path.IsAbs(p) && p != ".." && !strings.HasPrefix(path.Clean(p), "../")
}

// Ask returns a question for each variable that a service does not start
// without and that nothing provides.
func (a *App) Ask(w Wiring) []Question {
	var out []Question
	for _, s := range a.Services {
		for _, e := range s.Env {
			if !e.Required || e.Set || e.Default != "" {
				continue
			}
			q := Question{Service: s.Name, Env: e.Name, From: e.From}
			several := w.Unclear[[2]string{s.Name, e.Name}]
			value := "VALUE"
			if e.Secret {
				value = "{secret: true, value: VALUE}"
			}
			if len(several) > 0 {
				q.Text = fmt.Sprintf("Which service does $%s of %s mean, %s? The program ends without it. Say it in bight.yaml: "+
					"services: {%s: {links: {%s: %s}}}", e.Name, s.Name, strings.Join(several, " or "), s.Name, e.Name, several[0])
			} else {
				q.Text = fmt.Sprintf("$%s has no value: %s ends without one, and nothing in this app provides it. Give it one in bight.yaml: "+
					"services: {%s: {env: {%s: %s}}}", e.Name, s.Name, s.Name, e.Name, value)
			}
			out = append(out, q)
		}
	}
	return out
}
