// Package flow follows values through Go source without type checking it: which
// environment variable, flag or literal does the address that a server listens
// on come from, and through which functions, variables and fields did it get
// there.
//
// The main types are [Loader], which parses packages once and shares them, and
// [Program], one package main with everything of the source tree that it
// reaches. A Loader may be used from many goroutines; a Program by one at a
// time. Nothing outside of the tree is looked at, so what a library does with a
// value is known only for the few functions that package flow knows by name.
package flow

import (
	"go/token"
	"strings"
)

// Kind says where an [Atom] comes from.
type Kind uint8

// Kinds of [Atom].
const (
	Unknown Kind = iota // cannot be told from the source
	Const               // a literal; Text is its value
	Env                 // the value of the environment variable Text
	Flag                // the value of the command-line flag Text
)

// Atom is an indivisible part of a value.
type Atom struct {
	Kind Kind
	Text string
	Pos  token.Pos // where it is written
}

// Alt is one of the values that an expression may have: atoms one after another.
type Alt struct {
	Atoms []Atom
	// group tells alternatives apart that come from different callers; those of
	// one group stand in for each other, like a variable and its default.
	group int
}

// Const returns the alternative's text when it has no part that is decided at
// run time, and whether that is so.
func (a Alt) Const() (string, bool) {
	if len(a.Atoms) == 0 {
		return "", true
	}
	if len(a.Atoms) != 1 || a.Atoms[0].Kind != Const {
		return "", false
	}
	return a.Atoms[0].Text, true
}

// Control returns the only atom when it is a variable or a flag.
func (a Alt) Control() (Atom, bool) {
	if len(a.Atoms) != 1 || a.Atoms[0].Kind != Env && a.Atoms[0].Kind != Flag {
		return Atom{}, false
	}
	return a.Atoms[0], true
}

// String shows the alternative with $NAME for variables and --name for flags.
func (a Alt) String() string {
	var b strings.Builder
	for _, t := range a.Atoms {
		switch t.Kind {
		case Const:
			b.WriteString(t.Text)
		case Env:
			b.WriteString("${" + t.Text + "}")
		case Flag:
			b.WriteString("{--" + t.Text + "}")
		case Unknown:
			b.WriteString("{?}")
		}
	}
	return b.String()
}

// Value is everything that an expression may be, the first choice first.
type Value []Alt

// Consts returns the texts of the alternatives that are literals.
func (v Value) Consts() []Atom {
	var out []Atom
	for _, a := range v {
		if s, ok := a.Const(); ok {
			t := Atom{Kind: Const, Text: s}
			if len(a.Atoms) > 0 {
				t.Pos = a.Atoms[0].Pos
			}
			out = append(out, t)
		}
	}
	return out
}

// Groups splits the value by caller: the alternatives of one group stand in for
// each other.
func (v Value) Groups() []Value {
	var out []Value
	index := map[int]int{}
	for _, a := range v {
		i, ok := index[a.group]
		if !ok {
			i = len(out)
			index[a.group] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], a)
	}
	return out
}

// maxAlts bounds how many alternatives of one value are followed.
const maxAlts = 24

func constant(text string, pos token.Pos) Value {
	return Value{{Atoms: []Atom{{Const, text, pos}}}}
}

func unknown() Value { return Value{{Atoms: []Atom{{Kind: Unknown}}}} }

// union adds what is new in w to v.
func union(v, w Value) Value {
next:
	for _, b := range w {
		for _, a := range v {
			if a.group == b.group && sameAtoms(a.Atoms, b.Atoms) {
				continue next
			}
		}
		if len(v) >= maxAlts {
			return v
		}
		v = append(v, b)
	}
	return v
}

func sameAtoms(a, b []Atom) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Kind != b[i].Kind || a[i].Text != b[i].Text {
			return false
		}
	}
	return true
}

// concat is every alternative of v followed by every one of w.
func concat(v, w Value) Value {
	var out Value
	for _, a := range v {
		for _, b := range w {
			if a.group != 0 && b.group != 0 && a.group != b.group {
				continue
			}
			g := max(a.group, b.group)
			out = union(out, Value{{Atoms: join(a.Atoms, b.Atoms), group: g}})
		}
	}
	if len(out) == 0 && len(v) > 0 && len(w) > 0 {
		return unknown()
	}
	return out
}

// join appends b to a; neighbouring literals become one.
func join(a, b []Atom) []Atom {
	out := make([]Atom, 0, len(a)+len(b))
	out = append(out, a...)
	for _, t := range b {
		if n := len(out); n > 0 && t.Kind == Const && out[n-1].Kind == Const {
			if strings.HasSuffix(out[n-1].Text, ":") {
				out[n-1].Pos = t.Pos // of an address, the port is what is looked for
			}
			out[n-1].Text += t.Text
			continue
		}
		if t.Kind == Const && t.Text == "" && len(out) > 0 {
			continue
		}
		out = append(out, t)
	}
	if len(out) > 1 && out[0].Kind == Const && out[0].Text == "" {
		out = out[1:]
	}
	return out
}
