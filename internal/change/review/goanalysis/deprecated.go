package goanalysis

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"strings"

	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/packages"
	"honnef.co/go/tools/analysis/facts/deprecated"
)

// addDeprecated adds what is deprecated in the packages that pass's package uses
// and that came without their source. Only files that have the word are parsed.
func (w *wrapper) addDeprecated(pass *analysis.Pass, into deprecated.Result) {
	direct := map[string]*packages.Package{}
	for p, imports := range w.imports {
		if p.Types == pass.Pkg {
			for _, dep := range imports {
				direct[dep.PkgPath] = dep
			}
		}
	}
	docs := map[string]map[string]string{}
	of := func(p *types.Package) map[string]string {
		dep := direct[p.Path()]
		if dep == nil {
			return nil
		}
		d, ok := docs[p.Path()]
		if !ok {
			d = deprecations(dep.GoFiles)
			docs[p.Path()] = d
		}
		return d
	}
	for _, p := range pass.Pkg.Imports() {
		if msg, ok := of(p)[""]; ok && p.Path() != "syscall" && into.Packages[p] == nil {
			into.Packages[p] = &deprecated.IsDeprecated{Msg: msg}
		}
	}
	for _, obj := range pass.TypesInfo.Uses {
		if obj.Pkg() == nil || obj.Pkg() == pass.Pkg || into.Objects[obj] != nil {
			continue
		}
		if fn, ok := obj.(*types.Func); ok {
			obj = fn.Origin()
		}
		if msg, ok := of(obj.Pkg())[docName(obj)]; ok {
			into.Objects[obj] = &deprecated.IsDeprecated{Msg: msg}
		}
	}
}

// docName returns the name that [deprecations] knows an object by: "Name", or
// "Type.Method". Fields have none: their struct is not known from the object.
func docName(obj types.Object) string {
	if fn, ok := obj.(*types.Func); ok {
		if recv := fn.Signature().Recv(); recv != nil {
			t := types.Unalias(recv.Type())
			if p, ok := t.(*types.Pointer); ok {
				t = types.Unalias(p.Elem())
			}
			if n, ok := t.(*types.Named); ok {
				return n.Obj().Name() + "." + fn.Name()
			}
			return "?"
		}
	}
	if obj.Parent() != obj.Pkg().Scope() {
		return "?"
	}
	return obj.Name()
}

// deprecations returns what the files' comments call deprecated, with what they
// say; "" is the package.
func deprecations(files []string) map[string]string {
	out := map[string]string{}
	for _, name := range files {
		src, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(src, []byte("Deprecated: ")) {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			continue
		}
		note := func(doc *ast.CommentGroup, names ...string) {
			if msg := deprecation(doc); msg != "" {
				for _, n := range names {
					out[n] = msg
				}
			}
		}
		note(f.Doc, "")
		for _, d := range f.Decls {
			noteDecl(d, note)
		}
	}
	return out
}

func noteDecl(d ast.Decl, note func(*ast.CommentGroup, ...string)) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		name := d.Name.Name
		if d.Recv != nil && len(d.Recv.List) == 1 {
			name = receiver(d.Recv.List[0].Type) + "." + name
		}
		note(d.Doc, name)
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.ValueSpec:
				names := make([]string, len(s.Names))
				for i, n := range s.Names {
					names[i] = n.Name
				}
				note(d.Doc, names...)
				note(s.Doc, names...)
			case *ast.TypeSpec:
				note(d.Doc, s.Name.Name)
				note(s.Doc, s.Name.Name)
				if it, ok := s.Type.(*ast.InterfaceType); ok {
					for _, m := range it.Methods.List {
						for _, n := range m.Names {
							note(m.Doc, s.Name.Name+"."+n.Name)
						}
					}
				}
			}
		}
	}
}

func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return "?"
}

func deprecation(doc *ast.CommentGroup) string {
	if doc == nil {
		return ""
	}
	for part := range strings.SplitSeq(doc.Text(), "\n\n") {
		if msg, ok := strings.CutPrefix(part, "Deprecated: "); ok {
			return strings.TrimSpace(strings.ReplaceAll(msg, "\n", " "))
		}
	}
	return ""
}
