package goanalysis

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/tools/go/packages"

	"github.com/bightdev/bight/internal/change/review"
)

// compileFindings says what keeps a package from compiling: each cause once, at
// a changed line if it shows there.
func (u *universe) compileFindings(in *review.Input, p *packages.Package) ([]review.Finding, []review.Unchecked) {
	problems := slices.Clone(u.broken[p])
	for _, e := range p.Errors {
		if len(problems) == 0 || e.Kind == packages.ListError && e.Pos != "" && e.Pos != "-" && !strings.HasPrefix(e.Msg, "# ") {
			problems = append(problems, listed(u.root, e))
		}
	}
	if len(problems) > 0 {
		p.IllTyped = true
	}
	type group struct {
		problem
		n       int
		changed bool
	}
	var order []string
	groups := map[string]*group{}
	var notes []review.Unchecked
	for _, x := range problems {
		msg := strings.TrimSpace(x.msg)
		if strings.HasPrefix(msg, "\t") || msg == "" {
			continue
		}
		file, ok := u.relative(x.pos.Filename)
		if !ok {
			notes = append(notes, review.Unchecked{What: p.PkgPath, Why: msg})
			continue
		}
		fd := in.Diff.File(file)
		changed := fd != nil && fd.Touches(x.pos.Line, x.pos.Line)
		if !changed && strings.HasPrefix(msg, "could not import ") {
			notes = append(notes, review.Unchecked{What: p.PkgPath, Why: msg})
			continue
		}
		g := groups[msg]
		if g == nil {
			g = &group{problem: x}
			groups[msg] = g
			order = append(order, msg)
		}
		if changed && !g.changed {
			g.problem, g.changed = x, true
		}
		g.n++
	}
	var out []review.Finding
	for _, msg := range order {
		g := groups[msg]
		file, _ := u.relative(g.pos.Filename)
		f := review.Finding{
			Rule: "compile", Severity: review.Error, Message: msg, File: file, Line: g.pos.Line, Column: g.pos.Column, ByteColumns: true,
		}
		if g.n > 1 {
			f.Message += fmt.Sprintf(" (and at %d more places)", g.n-1)
		}
		if !g.changed {
			f.Why = "the change touches package " + p.PkgPath + ", which does not compile"
		}
		out = append(out, f)
	}
	slices.SortStableFunc(out, func(a, b review.Finding) int { return cmp.Compare(len(a.Why), len(b.Why)) })
	if most := 20; len(out) > most {
		notes = append(notes, review.Unchecked{What: p.PkgPath, Why: fmt.Sprintf("%d more compile errors are not shown", len(out)-most)})
		out = out[:most]
	}
	return out, notes
}

// listed reads the position of an error of the go command's, "file:line:col".
func listed(root string, e packages.Error) problem {
	x := problem{msg: e.Msg}
	rest := e.Pos
	var numbers []int
	for len(numbers) < 2 {
		i := strings.LastIndexByte(rest, ':')
		if i < 0 {
			break
		}
		n, err := strconv.Atoi(rest[i+1:])
		if err != nil {
			break
		}
		numbers, rest = append(numbers, n), rest[:i]
	}
	slices.Reverse(numbers)
	if len(numbers) > 0 {
		x.pos.Line = numbers[0]
	}
	if len(numbers) > 1 {
		x.pos.Column = numbers[1]
	}
	if rest != "" && rest != "-" {
		x.pos.Filename = rest
		if !filepath.IsAbs(rest) {
			x.pos.Filename = filepath.Join(root, rest)
		}
	}
	return x
}
