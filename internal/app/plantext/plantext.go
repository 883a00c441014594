// Package plantext renders an app's plan for people: what was decided about each
// service and why, with the file and line of each reason.
//
// Its main function is [Write]. It keeps no state.
package plantext

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"

	"github.com/bightdev/bight/internal/app"
)

// Write renders the plan of a. Values of secrets are not shown.
func Write(w io.Writer, a *app.App) error {
	p := &printer{w: tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)}
	p.line("app %s: %s", a.Name, count(len(a.Services), "service"))
	for _, s := range a.Services {
		p.service(s)
	}
	if len(a.Tasks) > 0 {
		p.line("\ntasks")
		for _, t := range a.Tasks {
			p.fact(t.From, "  "+t.Name, strings.Join(t.Command, " "))
		}
	}
	if len(a.Notes) > 0 {
		p.line("\nleft alone")
		for _, n := range a.Notes {
			p.line("  %s: %s", n.From.Place(), printable(n.Text))
		}
	}
	if len(a.Questions) > 0 {
		p.line("\nto be answered before anything is deployed")
		for _, q := range a.Questions {
			p.line("  %s: %s", q.From.Place(), printable(q.Text))
		}
	}
	if p.err != nil {
		return fmt.Errorf("write plan: %w", p.err)
	}
	if err := p.w.Flush(); err != nil {
		return fmt.Errorf("write plan: %w", err)
	}
	return nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// printable escapes what would upset a terminal or a table: control characters
// and bytes that are no UTF-8, which names of files may have.
func printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if unicode.IsPrint(r) && (r != utf8.RuneError || n > 1) {
			b.WriteRune(r)
		} else {
			quoted := strconv.QuoteToASCII(s[:n])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[n:]
	}
	return b.String()
}

type printer struct {
	w   *tabwriter.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

// fact is one line of the table: what, its value, where it was read and why.
func (p *printer) fact(f app.From, what, value string) {
	why := f.Place()
	if f.Why != "" {
		why += ": " + f.Why
	}
	switch f.Confidence {
	case app.Likely:
		why += " (likely)"
	case app.Guess:
		why += " (a guess)"
	}
	p.line("  %s\t%s\t%s", printable(what), printable(value), printable(why))
}

func (p *printer) service(s *app.Service) {
	p.line("\n%s", s.Name)
	p.fact(s.Source.From, "source", s.Source.Dir)
	switch s.Build.Kind {
	case app.BuildGo:
		p.fact(s.Build.From, "build", "go build "+s.Build.Package+inModule(s.Build.Module))
	case app.BuildStatic:
		p.fact(s.Build.From, "build", "files of "+s.Build.Root)
	}
	for _, a := range s.Build.Assets {
		value := a.Path
		if a.As != a.Path {
			value += " as " + a.As
		}
		p.fact(a.From, "asset", value)
	}
	for _, arg := range s.Args {
		from, ok := whence(s, arg)
		if !ok {
			p.line("  arg\t%s\t", printable(arg))
			continue
		}
		p.fact(from, "arg", arg)
	}
	for _, x := range s.Ports {
		p.fact(x.From, "port", fmt.Sprintf("%d %s", x.Number, portKind(x)))
	}
	if h := s.Health; h != nil {
		p.fact(h.From, "health", strings.TrimSpace(fmt.Sprintf("%s %d %s", h.Kind, h.Port, h.Path)))
	}
	linked := map[string]bool{}
	for _, l := range s.Links {
		name := "$" + l.Env
		if l.Env == "" {
			name = "--" + l.Flag
		}
		linked[l.Env] = true
		p.fact(l.From, "link", fmt.Sprintf("%s -> %s  %s", name, l.To, l.Value))
	}
	for _, e := range s.Env {
		if !linked[e.Name] {
			p.fact(e.From, "env", envValue(e))
		}
	}
	if s.Replicas > 1 {
		p.line("  replicas\t%d\t", s.Replicas)
	}
	for _, v := range s.Volumes {
		p.fact(v.From, "volume", fmt.Sprintf("%s at %s, %s", v.Name, v.Path, v.Size))
	}
}

// whence is where an argument was read: where the port or the link was that it carries,
// or else where the others were.
func whence(s *app.Service, arg string) (app.From, bool) {
	name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	if !strings.HasPrefix(arg, "-") {
		return s.ArgsFrom, s.ArgsFrom.File != ""
	}
	for _, l := range s.Links {
		if l.Flag == name {
			return l.From, true
		}
	}
	for _, p := range s.Ports {
		if p.Flag == name {
			return p.From, true
		}
	}
	return s.ArgsFrom, s.ArgsFrom.File != ""
}

func inModule(dir string) string {
	if dir == "" || dir == "." {
		return ""
	}
	return " in " + dir
}

func portKind(x app.Port) string {
	if x.Name == x.Protocol {
		return x.Protocol
	}
	return x.Name + " (" + x.Protocol + ")"
}

func envValue(e app.EnvVar) string {
	switch {
	case e.Set && e.Secret:
		return e.Name + "=(secret)"
	case e.Set:
		return e.Name + "=" + e.Value
	case e.Default != "" && e.Secret:
		return e.Name + " unset, has a default"
	case e.Default != "":
		return e.Name + " unset, default " + e.Default
	case e.Required:
		return e.Name + " needed"
	}
	return e.Name + " unset"
}
