package detect

import (
	"go/ast"
	"slices"
	"strings"

	"github.com/bightdev/bight/internal/app/detect/flow"
)

// command is a subcommand of a program that uses cobra.
type command struct {
	lit  *flow.Literal
	name string
	run  ast.Expr
}

// serveWords are the names of subcommands that serve, the usual first.
var serveWords = []string{"serve", "server", "start", "run", "api", "web", "http", "daemon", "up", "listen"}

// chooseCommand finds the subcommand that serves. path is what to give the
// program as arguments: empty when the root command serves. several are the
// names when more than one does and none is the obvious one.
func chooseCommand(p *flow.Program, listeners []listener) (path []string, chosen *command, several []string) {
	commands := findCommands(p)
	if len(commands) == 0 || len(listeners) == 0 {
		return nil, nil, nil
	}
	reaches := p.Reaching(sites(listeners), literals(listeners))
	var serving []*command
	for _, c := range commands {
		if c.run != nil && reaches(c.run, c.lit) {
			serving = append(serving, c)
		}
	}
	if len(serving) == 0 {
		return nil, nil, nil
	}
	chosen = serving[0]
	if len(serving) > 1 {
		i := slices.IndexFunc(serving, func(c *command) bool { return p.Parent(c.lit) == nil })
		for _, w := range serveWords {
			if i < 0 {
				i = slices.IndexFunc(serving, func(c *command) bool { return c.name == w })
			}
		}
		if i < 0 {
			for _, c := range serving {
				several = append(several, c.name)
			}
			i = 0
		}
		chosen = serving[i]
	}
	seen := map[*flow.Literal]bool{}
	for l := chosen.lit; l != nil && !seen[l]; {
		seen[l] = true
		up := p.Parent(l)
		if up == nil {
			break
		}
		path = append([]string{commandName(p, l)}, path...)
		l = up
	}
	return path, chosen, several
}

func sites(list []listener) []*flow.Site {
	var out []*flow.Site
	for _, l := range list {
		if l.site != nil {
			out = append(out, l.site)
		}
	}
	return out
}

func literals(list []listener) []*flow.Literal {
	var out []*flow.Literal
	for _, l := range list {
		if l.literal != nil {
			out = append(out, l.literal)
		}
	}
	return out
}

func findCommands(p *flow.Program) []*command {
	var out []*command
	for _, l := range p.Literals {
		if t := p.LitType(l); t.Path != "github.com/spf13/cobra" || t.Name != "Command" {
			continue
		}
		c := &command{lit: l, name: commandName(p, l)}
		f := flow.Fields(l.Lit)
		for _, key := range []string{"RunE", "Run"} {
			if f[key] != nil {
				c.run = f[key]
			}
		}
		out = append(out, c)
	}
	return out
}

func commandName(p *flow.Program, l *flow.Literal) string {
	use := flow.Fields(l.Lit)["Use"]
	if use == nil {
		return ""
	}
	for _, c := range p.ExpandIn(use, l) {
		for _, a := range c.Value.Consts() {
			name, _, _ := strings.Cut(a.Text, " ")
			return name
		}
	}
	return ""
}
