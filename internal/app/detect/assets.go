package detect

import (
	"go/token"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/app/detect/flow"
)

// openers are the functions that open files, and which argument is the path; -1
// for all of them.
var openers = map[string]int{
	"os.Open": 0, "os.ReadFile": 0, "os.ReadDir": 0, "os.DirFS": 0, "os.OpenFile": 0, "io/ioutil.ReadFile": 0,
	"io/ioutil.ReadDir": 0, "net/http.Dir": 0, "net/http.ServeFile": 2, "path/filepath.Walk": 0,
	"path/filepath.WalkDir": 0, "path/filepath.Glob": 0, "crypto/tls.LoadX509KeyPair": -1, "os.OpenRoot": 0,
}

// openNames are methods and functions of libraries that do, by name.
var openNames = map[string]int{
	"ParseFiles": -1, "ParseGlob": 0, "LoadHTMLGlob": 0, "LoadHTMLFiles": -1, "Static": 1, "StaticFile": 1,
	"DecodeFile": 0, "SetConfigFile": 0, "SendFile": 0, "LoadFile": 0, "ServeFile": -1, "ServeFiles": -1,
}

// assets finds the files and directories that the program opens at run time by
// a relative path.
func (b *builder) assets() {
	for _, s := range b.p.Sites {
		c := b.p.Callee(s)
		if c.Local {
			continue
		}
		arg, ok := openers[c.Path+"."+c.Name]
		if !ok {
			if arg, ok = openNames[c.Name]; !ok || c.Path == "os" {
				continue
			}
		}
		if c.Name == "File" && !strings.Contains(c.Path, "echo") {
			continue
		}
		for i, e := range s.Call.Args {
			if arg >= 0 && i != arg || s.Call.Ellipsis.IsValid() && i == len(s.Call.Args)-1 && arg < 0 {
				continue
			}
			for _, cs := range b.p.Expand(e, s) {
				for _, a := range cs.Value.Consts() {
					b.asset(a.Text, firstPos(a.Pos, s.Pos()), c.Name == "Dir" || c.Name == "Static")
				}
			}
		}
	}
	for _, f := range b.p.Flags() {
		for _, a := range f.Default.Consts() {
			if pathLike(f.Name, a.Text) {
				b.asset(a.Text, firstPos(a.Pos, f.Pos), false)
			}
		}
	}
	for _, r := range b.reads {
		if pathLike(r.Name, r.Default) {
			b.asset(r.Default, r.Pos, false)
		}
	}
	b.svc.Build.Assets = outermost(b.svc.Build.Assets)
}

func firstPos(list ...token.Pos) token.Pos {
	for _, p := range list {
		if p.IsValid() {
			return p
		}
	}
	return token.NoPos
}

// pathLike reports whether the default of a setting is a path to something that
// comes with the program.
func pathLike(name, def string) bool {
	if def == "" || strings.Contains(def, "://") || path.IsAbs(def) || strings.ContainsAny(def, " \n,=") {
		return false
	}
	if strings.HasPrefix(def, "./") {
		return true
	}
	low := strings.ToLower(name)
	for _, w := range []string{"path", "dir", "file", "static", "template", "assets", "public", "root", "config"} {
		if strings.Contains(low, w) {
			return true
		}
	}
	return false
}

// asset adds a path that exists relative to where the program would be run
// during development: its package, its module or the root.
func (b *builder) asset(p string, pos token.Pos, serves bool) {
	p = strings.TrimPrefix(p, "file://")
	if p == "" || path.IsAbs(p) || strings.ContainsAny(p, "\x00\n") || strings.Contains(p, "://") {
		return
	}
	if i := strings.IndexAny(p, "*?["); i >= 0 { // a pattern: the directory above it
		p = path.Dir(p[:i] + "x")
	}
	as := path.Clean(p)
	if as == ".." || strings.HasPrefix(as, "../") {
		b.outsideAsset(as, pos)
		return
	}
	if as == "." {
		if serves {
			b.note(pos, "%s serves its own working directory, which has nothing but the program in an image; name a subdirectory, or the files under build: {assets: [...]} in bight.yaml", b.svc.Name)
		}
		return
	}
	for _, base := range b.bases() {
		rel := path.Join(base, as)
		if strings.HasSuffix(as, ".go") || !b.exists(rel) {
			continue
		}
		if !slices.ContainsFunc(b.svc.Build.Assets, func(a app.Asset) bool { return a.As == as }) {
			b.svc.Build.Assets = append(b.svc.Build.Assets, app.Asset{
				Path: rel, As: as, From: b.from(pos, app.Likely, "the code opens %s", p),
			})
		}
		return
	}
}

func (b *builder) outsideAsset(as string, pos token.Pos) {
	for _, base := range b.bases() {
		if rel := path.Join(base, as); inside(rel) && b.exists(rel) {
			b.note(pos, "%s opens %s, outside of its working directory; that path does not exist in an image. Let it open a path below, and add build: {assets: [%q]} in bight.yaml",
				b.svc.Name, as, rel+":"+path.Base(as))
			return
		}
	}
}

func inside(p string) bool { return p != ".." && !strings.HasPrefix(p, "../") && !path.IsAbs(p) }

func (b *builder) bases() []string {
	out := []string{b.dir}
	for _, d := range []string{b.module, "."} {
		if !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return out
}

func (b *builder) exists(rel string) bool {
	_, err := os.Stat(filepath.Join(b.p.Loader.Root, filepath.FromSlash(rel)))
	return err == nil && inside(rel)
}

// outermost drops what is inside of another asset.
func outermost(list []app.Asset) []app.Asset {
	var out []app.Asset
	for i, a := range list {
		covered := slices.ContainsFunc(list[:i], func(o app.Asset) bool { return o.As == a.As }) ||
			slices.ContainsFunc(list, func(o app.Asset) bool { return strings.HasPrefix(a.As, o.As+"/") && under(a.Path, o.Path) })
		if !covered {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b app.Asset) int { return strings.Compare(a.As, b.As) })
	return out
}

// owned are the directories that the program serves or has compiled in.
func (b *builder) owned() []string {
	var out []string
	for _, a := range b.svc.Build.Assets {
		out = append(out, a.Path)
	}
	for _, k := range b.p.Packages() {
		for _, e := range k.Embeds {
			pat := e.Pattern
			if i := strings.IndexAny(pat, "*?["); i >= 0 {
				pat = path.Dir(pat[:i] + "x")
			}
			out = append(out, path.Join(k.Dir, pat))
		}
	}
	return out
}

// servesFiles reports whether the program serves files from somewhere.
func servesFiles(p *flow.Program) bool {
	for _, s := range p.Sites {
		switch c := p.Callee(s); {
		case c.Local:
		case c.Name == "FileServer" || c.Name == "FileServerFS" || c.Name == "ServeFile" || c.Name == "Static" || c.Name == "StaticFS",
			c.Name == "ParseGlob" || c.Name == "ParseFiles" || c.Name == "LoadHTMLGlob":
			return true
		}
	}
	return false
}
