// Package manifest reviews the Kubernetes objects that a change renders to
// against what the cluster says of its own API, in OpenAPI version 3. Its main
// type is [Checker]. Unknown fields, wrong types and doubled entries are found by
// the code that server-side apply itself uses; required fields, whole numbers and
// enumerations are checked beside it.
//
// A Checker keeps the schemas that it has read and may be used from many goroutines.
package manifest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/bightdev/bight/internal/change/review"
)

// Schemas is where descriptions of an API come from.
type Schemas interface {
	// Schemas returns the schemas of one group and version by name. The error is
	// fs.ErrNotExist if there are none.
	Schemas(ctx context.Context, gv schema.GroupVersion) (map[string]*spec.Schema, error)
}

// Checker reviews rendered objects.
type Checker struct {
	Schemas Schemas // nil: nothing can be checked, and the report says so

	mu    sync.Mutex
	types map[schema.GroupVersion]*api
}

// api is one group and version, made ready for use.
type api struct {
	once    sync.Once
	schemas map[string]*spec.Schema
	convert managedfields.TypeConverter
	err     error
}

// Name implements [review.Checker].
func (c *Checker) Name() string { return "manifest" }

// Check implements [review.Checker].
func (c *Checker) Check(ctx context.Context, in *review.Input) (review.Result, error) {
	changed := in.ChangedObjects()
	if len(changed) == 0 {
		return review.Result{}, nil
	}
	if c.Schemas == nil {
		return review.Result{}, errors.New("no cluster and no OpenAPI documents are at hand")
	}
	own := definitions(in.Objects)
	var res review.Result
	var found []problem
	for _, o := range changed {
		if ctx.Err() != nil {
			return res, context.Cause(ctx)
		}
		problems, note := c.object(ctx, o, own)
		found = append(found, problems...)
		if note != "" {
			res.Unchecked = append(res.Unchecked, review.Unchecked{What: o.String(), Why: note})
		}
	}
	res.Findings = merge(found)
	return res, nil
}

// problem is one thing that is wrong with one object.
type problem struct {
	object review.ChangedObject
	rule   string
	path   string
	text   string
}

// object checks one object, or says why it can't.
func (c *Checker) object(ctx context.Context, o review.ChangedObject, own map[schema.GroupKind]bool) ([]problem, string) {
	u := &unstructured.Unstructured{Object: o.Value}
	gvk := u.GroupVersionKind()
	if gvk.Kind == "" || gvk.Version == "" {
		return []problem{{o, "identity", "", "it has no apiVersion or no kind, so nobody can say what it is"}}, ""
	}
	a := c.api(ctx, gvk.GroupVersion())
	switch {
	case errors.Is(a.err, fs.ErrNotExist) && own[gvk.GroupKind()]:
		return nil, fmt.Sprintf("%s is defined by the change itself, and the cluster does not know it yet", gvk.Kind)
	case errors.Is(a.err, fs.ErrNotExist):
		return nil, fmt.Sprintf("nothing is known of %s: the cluster, or the documents, do not have it", gvk.GroupVersion())
	case a.err != nil:
		return nil, a.err.Error()
	}
	s := a.of(gvk)
	if s == nil {
		if own[gvk.GroupKind()] {
			return nil, fmt.Sprintf("%s is defined by the change itself, and the cluster does not know it yet", gvk.Kind)
		}
		return []problem{{o, "unknown-kind", "", fmt.Sprintf("%s has no kind %s", gvk.GroupVersion(), gvk.Kind)}}, ""
	}
	w := walk{schemas: a.schemas}
	w.value(s, o.Value, "", 0)
	var out []problem
	_, err := a.convert.ObjectToTyped(u)
	var list typed.ValidationErrors
	if errors.As(err, &list) {
		for _, e := range list {
			e.ErrorMessage = gotValue.ReplaceAllString(e.ErrorMessage, "got $1")
			if strings.Contains(e.ErrorMessage, "omits all key fields") && w.requiredBelow(e.Path) {
				continue // said in plain words below
			}
			out = append(out, problem{o, rule(e.ErrorMessage), e.Path, e.ErrorMessage})
		}
	} else if err != nil {
		return nil, err.Error()
	}
	for _, e := range w.found {
		// What has the wrong type was said already, and better.
		if !slices.ContainsFunc(out, func(p problem) bool { return p.path == e.path }) {
			out = append(out, problem{o, e.rule, e.path, e.text})
		}
	}
	return out, ""
}

// gotValue is how the typed package prints a value.
var gotValue = regexp.MustCompile(`got &value\.valueUnstructured\{Value:(.*)\}`)

// rule names what the typed package complains of.
func rule(message string) string {
	switch {
	case strings.Contains(message, "field not declared in schema"):
		return "unknown-field"
	case strings.Contains(message, "duplicate entries"):
		return "duplicate"
	case strings.HasPrefix(message, "expected "):
		return "wrong-type"
	}
	return "invalid"
}

// api returns a group and version, reading it if that has not happened yet. What
// was cut short by ctx is read again next time.
func (c *Checker) api(ctx context.Context, gv schema.GroupVersion) *api {
	c.mu.Lock()
	if c.types == nil {
		c.types = map[schema.GroupVersion]*api{}
	}
	a := c.types[gv]
	if a == nil {
		a = &api{}
		c.types[gv] = a
	}
	c.mu.Unlock()
	a.once.Do(func() {
		if a.schemas, a.err = c.Schemas.Schemas(ctx, gv); a.err == nil {
			a.convert, a.err = managedfields.NewTypeConverter(a.schemas, false)
		}
	})
	if a.err != nil { // the next review may have more luck
		c.mu.Lock()
		if c.types[gv] == a {
			delete(c.types, gv)
		}
		c.mu.Unlock()
	}
	return a
}

// of returns the schema of a kind, or nil.
func (a *api) of(gvk schema.GroupVersionKind) *spec.Schema {
	for _, s := range a.schemas {
		for _, is := range kinds(s) {
			if is == gvk {
				return s
			}
		}
	}
	return nil
}

// kinds reads which kinds a schema is of.
func kinds(s *spec.Schema) []schema.GroupVersionKind {
	list, _ := s.Extensions["x-kubernetes-group-version-kind"].([]any)
	var out []schema.GroupVersionKind
	for _, x := range list {
		m, _ := x.(map[string]any)
		text := func(k string) string { v, _ := m[k].(string); return v }
		out = append(out, schema.GroupVersionKind{Group: text("group"), Version: text("version"), Kind: text("kind")})
	}
	return out
}

// definitions returns the kinds that the objects themselves define.
func definitions(objects []review.Object) map[schema.GroupKind]bool {
	out := map[schema.GroupKind]bool{}
	for _, o := range objects {
		if o.Kind() != "CustomResourceDefinition" {
			continue
		}
		group, _, _ := unstructured.NestedString(o.Value, "spec", "group")
		kind, _, _ := unstructured.NestedString(o.Value, "spec", "names", "kind")
		out[schema.GroupKind{Group: group, Kind: kind}] = true
	}
	return out
}

// merge makes one finding of what has one cause: the same complaint about objects
// that come from the same line.
func merge(found []problem) []review.Finding {
	type cause struct {
		file, rule, path, text, kind string
		line                         int
	}
	at := map[cause]int{}
	more := map[int]int{}
	var out []review.Finding
	for _, p := range found {
		file, line := p.object.At(p.path)
		k := cause{file, p.rule, p.path, p.text, p.object.Kind(), line}
		if i, ok := at[k]; ok && file != "" {
			more[i]++
			continue
		}
		at[k] = len(out)
		out = append(out, review.Finding{
			Rule: p.rule, Severity: review.Error, File: file, Line: line, Object: p.object.String(), Why: p.object.Why,
			Message: strings.TrimPrefix(strings.TrimPrefix(p.path, ".")+": "+p.text, ": "),
		})
	}
	for i, n := range more {
		out[i].Message += fmt.Sprintf(" (and in %d more objects from this line)", n)
	}
	slices.SortStableFunc(out, func(a, b review.Finding) int { return cmp.Compare(a.Object, b.Object) })
	return out
}
