package review

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/bightdev/bight/internal/app"
)

// maxFileBytes is the largest file of a checkout that a review reads whole.
const maxFileBytes = 16 << 20

// Input is one change, as its checkers see it. It must not be copied after use.
type Input struct {
	Dir  string // the checkout of the head commit, absolute
	Diff *Diff  // from the base commit to the head commit
	Base string // the base commit, where it is known
	Head string // the head commit, where it is known

	// App is the app in the checkout; nil if none was found.
	App *app.App

	// Authors are who wrote the change's commits ("Ada <ada@example.org>").
	Authors []string

	// Churn says how many recent commits changed each path; nil is not known.
	Churn map[string]int

	// Objects are what the head commit renders to, and BaseObjects what the base
	// does; BaseRendered says whether BaseObjects is known at all.
	Objects      []Object
	BaseObjects  []Object
	BaseRendered bool

	// BaseFile returns the content of a file of the base commit; an error that
	// is fs.ErrNotExist if there is none. nil where the base can't be read.
	BaseFile func(ctx context.Context, path string) ([]byte, error)

	files sync.Map // path -> *file
}

// Object is one rendered Kubernetes object and the place in the source that it is
// from: a manifest, or the line that a fact of the app model was read from.
type Object struct {
	Value map[string]any
	File  string
	Line  int // from 1; 0 is not known

	// Fields are where its fields are from, as far as they have places of their own.
	Fields []Field
}

// Kind returns the object's kind.
func (o Object) Kind() string { return o.text("kind") }

// Name returns the object's name.
func (o Object) Name() string { return o.meta("name") }

// Namespace returns the object's namespace, "" where it has none.
func (o Object) Namespace() string { return o.meta("namespace") }

// String returns what people call the object: "Deployment cart".
func (o Object) String() string {
	return strings.TrimSpace(o.Kind() + " " + o.Name())
}

func (o Object) text(key string) string { s, _ := o.Value[key].(string); return s }

func (o Object) meta(key string) string {
	m, _ := o.Value["metadata"].(map[string]any)
	s, _ := m[key].(string)
	return s
}

// same reports whether two objects are versions of one.
func (o Object) same(b Object) bool {
	group := func(x Object) string {
		g, _, ok := strings.Cut(x.text("apiVersion"), "/")
		if !ok {
			return ""
		}
		return g
	}
	return o.Kind() == b.Kind() && o.Name() == b.Name() && o.Namespace() == b.Namespace() && group(o) == group(b)
}

// BaseObject returns the base commit's version of an object, or nil.
func (in *Input) BaseObject(o Object) map[string]any {
	i := slices.IndexFunc(in.BaseObjects, o.same)
	if i < 0 {
		return nil
	}
	return in.BaseObjects[i].Value
}

// ChangedObjects returns the objects that the change adds or alters, and for each
// why the change is answerable for it. Where the base was not rendered, that is
// all of them.
func (in *Input) ChangedObjects() []ChangedObject {
	var out []ChangedObject
	for _, o := range in.Objects {
		c := ChangedObject{Object: o, Old: in.BaseObject(o)}
		switch {
		case !in.BaseRendered:
			c.Why = "the base commit's objects are not known, so all of the head's were checked"
		case c.Old == nil:
			c.Why = "the change adds " + o.String()
		case !sameValue(o.Value, c.Old):
			c.Why = "the change alters " + o.String()
		default:
			continue
		}
		out = append(out, c)
	}
	return out
}

// ChangedObject is an object that a change adds or alters.
type ChangedObject struct {
	Object
	Old map[string]any // nil if the change adds it
	Why string
}

// AppFile returns the path, relative to the checkout's root, of a file that the
// app model names relative to the app's directory.
func (in *Input) AppFile(file string) string {
	return path.Join(in.appPrefix(), file)
}

func (in *Input) appPrefix() string {
	if in.App == nil || in.App.Dir == "" {
		return "."
	}
	rel, err := filepath.Rel(in.Dir, in.App.Dir)
	if err != nil || !filepath.IsLocal(rel) {
		return "."
	}
	return filepath.ToSlash(rel)
}

type file struct {
	once sync.Once
	data []byte
	err  error
}

// Read returns a file of the checkout, of at most 16 MiB. It follows no symbolic
// link out of the checkout, and keeps what it read.
func (in *Input) Read(name string) ([]byte, error) {
	v, _ := in.files.LoadOrStore(name, &file{})
	f := v.(*file)
	f.once.Do(func() { f.data, f.err = readInside(in.Dir, name) })
	return f.data, f.err
}

func readInside(dir, name string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	info, err := root.Stat(filepath.FromSlash(name))
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: not a regular file", name)
	}
	f, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFileBytes {
		return nil, fmt.Errorf("read %s: larger than %d MiB", name, maxFileBytes>>20)
	}
	return b, nil
}

// lines returns the lines of a file of the checkout, nil if it can't be read.
func (in *Input) lines(name string) [][]byte {
	b, err := in.Read(name)
	if err != nil {
		return nil
	}
	return bytes.Split(b, []byte("\n"))
}

var generatedMark = regexp.MustCompile(`(?m)^(//|#|--|/\*|<!--|;)\s*(Code generated .* DO NOT EDIT\.?|@generated\b)`)

// Generated reports whether a file of the checkout says that a program wrote it.
func (in *Input) Generated(name string) bool {
	b, err := in.Read(name)
	return err == nil && generatedMark.Match(b[:min(len(b), 4<<10)])
}

// Vendored reports whether a path is a copy of somebody else's code.
func Vendored(name string) bool {
	for dir := range strings.SplitSeq(path.Dir(name), "/") {
		switch dir {
		case "vendor", "node_modules", "third_party":
			return true
		}
	}
	return false
}

// errNoBase says that the base commit's files can't be read.
var errNoBase = errors.New("the base commit's files are not at hand")

// ReadBase returns a file of the base commit.
func (in *Input) ReadBase(ctx context.Context, name string) ([]byte, error) {
	if in.BaseFile == nil {
		return nil, errNoBase
	}
	return in.BaseFile(ctx, name)
}
