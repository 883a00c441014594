package live

import (
	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/tree"
)

// deltaSize is from which size on a file is worth a delta.
const deltaSize = 16 << 10

// plan is what turns one tree into another.
type plan struct {
	base, target tree.Hash
	deletes      []string
	puts         []wire.Put
}

// makePlan plans to turn have into want. A file whose content have already has
// is not sent again, whatever its path was; a large file that replaces another
// is marked for a delta where mayDelta says so.
func makePlan(have, want tree.Tree, base, target tree.Hash, mayDelta func(old tree.Hash) bool) plan {
	d := tree.Compare(have, want)
	p := plan{base: base, target: target, deletes: d.Delete}
	var paths map[tree.Hash]string // of have, made when it is needed
	for _, name := range d.Put {
		e := want[name]
		e.Local = ""
		put := wire.Put{Path: name, Entry: e}
		if !e.Mode.IsRegular() {
			p.puts = append(p.puts, put)
			continue
		}
		old, replaces := have[name]
		replaces = replaces && old.Mode.IsRegular()
		switch {
		case replaces && old.Hash == e.Hash:
			put.How, put.Ref = wire.Same, name
		case replaces && e.Size >= deltaSize && old.Size >= deltaSize && mayDelta(old.Hash):
			put.How, put.Ref = wire.Delta, name
		case !replaces:
			if paths == nil {
				paths = contents(have)
			}
			if ref, ok := paths[e.Hash]; ok {
				put.How, put.Ref = wire.Same, ref
			}
		}
		p.puts = append(p.puts, put)
	}
	return p
}

// contents maps the contents of a tree's files to one of their paths.
func contents(t tree.Tree) map[tree.Hash]string {
	m := make(map[tree.Hash]string, len(t))
	for name, e := range t {
		if !e.Mode.IsRegular() {
			continue
		}
		if was, ok := m[e.Hash]; !ok || name < was {
			m[e.Hash] = name
		}
	}
	return m
}
