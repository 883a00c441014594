package live

import (
	"crypto/sha256"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/tree"
)

func file(content string) tree.Entry {
	return tree.Entry{Mode: 0o644, Size: int64(len(content)), Hash: sha256.Sum256([]byte(content))}
}

func TestMakePlan(t *testing.T) {
	exec := file("1")
	exec.Mode = 0o755
	big1, big2 := file(strings.Repeat("a", deltaSize)), file(strings.Repeat("b", deltaSize+1))
	link := tree.Entry{Mode: fs.ModeSymlink, Link: "a"}
	for _, tt := range []struct {
		name       string
		have, want tree.Tree
		puts       []wire.Put
		deletes    []string
	}{
		{name: "nothing"},
		{"new", nil, tree.Tree{"a": file("1")}, []wire.Put{{Path: "a", Entry: file("1")}}, nil},
		{"edited", tree.Tree{"a": file("1")}, tree.Tree{"a": file("2")}, []wire.Put{{Path: "a", Entry: file("2")}}, nil},
		{"deleted", tree.Tree{"a": file("1")}, nil, nil, []string{"a"}},
		{"renamed", tree.Tree{"a": file("1")}, tree.Tree{"b": file("1")},
			[]wire.Put{{Path: "b", Entry: file("1"), How: wire.Same, Ref: "a"}}, []string{"a"}},
		{"copied", tree.Tree{"a": file("1"), "z": file("1")}, tree.Tree{"a": file("1"), "b": file("1"), "z": file("1")},
			[]wire.Put{{Path: "b", Entry: file("1"), How: wire.Same, Ref: "a"}}, nil},
		{"mode", tree.Tree{"a": file("1")}, tree.Tree{"a": exec},
			[]wire.Put{{Path: "a", Entry: exec, How: wire.Same, Ref: "a"}}, nil},
		{"large, known", tree.Tree{"a": big1}, tree.Tree{"a": big2},
			[]wire.Put{{Path: "a", Entry: big2, How: wire.Delta, Ref: "a"}}, nil},
		{"large, not known", tree.Tree{"a": big2}, tree.Tree{"a": big1}, []wire.Put{{Path: "a", Entry: big1}}, nil},
		{"link for file", tree.Tree{"b": big1}, tree.Tree{"b": link}, []wire.Put{{Path: "b", Entry: link}}, nil},
		{"file for link", tree.Tree{"b": link}, tree.Tree{"b": big1}, []wire.Put{{Path: "b", Entry: big1}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := tree.Tree{}
			for n, e := range tt.want {
				e.Local = "/here/" + n // never leaves the machine
				want[n] = e
			}
			p := makePlan(tt.have, want, tree.Hash{1}, tree.Hash{2}, func(h tree.Hash) bool { return h == big1.Hash })
			if d := cmp.Diff(plan{tree.Hash{1}, tree.Hash{2}, tt.deletes, tt.puts}, p, cmp.AllowUnexported(plan{})); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}
