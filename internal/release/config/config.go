// Package config makes configuration part of a version: ConfigMaps and Secrets whose names
// have a digest of what is in them, and pod templates that refer to them by these. So each
// ReplicaSet has its own, whatever comes after it, and another configuration is another
// version.
//
// Its main type is [Ref], an object that a pod template refers to. A template is as JSON has
// it, with all that this program knows nothing of. Everything here is a pure function, and
// safe for concurrent use.
package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
)

// Annotation is on the ConfigMaps and Secrets of versions: how the one is called that each
// is a version of.
const Annotation = "bight.dev/config"

// Label is on them, too: the Deployment that they are made for. Who has it is removed when
// nothing refers to it any more.
const Label = "bight.dev/config"

// Wanted is on those that a later release takes again: when it did (RFC 3339), from when on
// they count as just made.
const Wanted = "bight.dev/wanted"

// Kinds of Ref.
const (
	ConfigMap = "ConfigMap"
	Secret    = "Secret"
)

// Ref is a ConfigMap or a Secret of the namespace.
type Ref struct{ Kind, Name string }

// Content is what is in one, text and what is none. A Secret has all of it in Binary.
type Content struct {
	Text   map[string]string
	Binary map[string][]byte
}

// Equal says whether there is the same in both.
func (c Content) Equal(o Content) bool {
	return maps.Equal(c.Text, o.Text) && maps.EqualFunc(c.Binary, o.Binary, slices.Equal)
}

// With is a content with other values of some keys.
func (c Content) With(text map[string]string, binary map[string][]byte) Content {
	out := Content{Text: map[string]string{}, Binary: map[string][]byte{}}
	maps.Copy(out.Text, c.Text)
	maps.Copy(out.Binary, c.Binary)
	for k, v := range text {
		delete(out.Binary, k)
		out.Text[k] = v
	}
	for k, v := range binary {
		delete(out.Text, k)
		out.Binary[k] = v
	}
	return out
}

// longest is how long the name of an object may be.
const longest = 253

// Name is what the version of an object is called that has some content.
func Name(base string, c Content) string {
	raw, err := json.Marshal([]any{c.Text, c.Binary})
	if err != nil {
		panic(fmt.Sprintf("config: maps of strings do not marshal: %v", err)) // impossible
	}
	sum := sha256.Sum256(raw)
	digest := hex.EncodeToString(sum[:5])
	return base[:min(len(base), longest-len(digest)-1)] + "-" + digest
}

var versioned = regexp.MustCompile(`^(.+)-[0-9a-f]{10}$`)

// Base is how the object is called that one is a version of, by its name alone, and "" if it
// can't be one.
func Base(name string) string {
	if m := versioned.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return ""
}

// Refs are the ConfigMaps and Secrets that a pod template refers to, each once, in order.
func Refs(template map[string]any) []Ref {
	seen := map[Ref]bool{}
	walk(template, func(r Ref) string { seen[r] = true; return r.Name })
	return slices.SortedFunc(maps.Keys(seen), func(a, b Ref) int {
		if a.Kind != b.Kind {
			return compare(a.Kind, b.Kind)
		}
		return compare(a.Name, b.Name)
	})
}

func compare(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}

// Replace has a pod template refer to other objects, where there is one for what it refers
// to, and says how many places that were.
func Replace(template map[string]any, by map[Ref]string) (n int) {
	walk(template, func(r Ref) string {
		if name, ok := by[r]; ok {
			n++
			return name
		}
		return r.Name
	})
	return n
}

// walk visits each place where a pod template refers to a ConfigMap or a Secret of what a
// container sees: volumes, and variables of containers. visit returns the name to be there.
func walk(template map[string]any, visit func(Ref) string) {
	spec := field(template, "spec")
	at := func(holder map[string]any, kind, key string) {
		if name, ok := holder[key].(string); ok && name != "" {
			holder[key] = visit(Ref{kind, name})
		}
	}
	for _, v := range list(spec, "volumes") {
		at(field(v, "configMap"), ConfigMap, "name")
		at(field(v, "secret"), Secret, "secretName")
		for _, s := range list(field(v, "projected"), "sources") {
			at(field(s, "configMap"), ConfigMap, "name")
			at(field(s, "secret"), Secret, "name")
		}
	}
	for _, kind := range []string{"initContainers", "containers"} {
		for _, c := range list(spec, kind) {
			for _, e := range list(c, "env") {
				at(field(field(e, "valueFrom"), "configMapKeyRef"), ConfigMap, "name")
				at(field(field(e, "valueFrom"), "secretKeyRef"), Secret, "name")
			}
			for _, e := range list(c, "envFrom") {
				at(field(e, "configMapRef"), ConfigMap, "name")
				at(field(e, "secretRef"), Secret, "name")
			}
		}
	}
}

// field is a part of an object, nil if it has none of that name: reading nil finds nothing.
func field(of map[string]any, name string) map[string]any {
	m, _ := of[name].(map[string]any)
	return m
}

func list(of map[string]any, name string) (out []map[string]any) {
	all, _ := of[name].([]any)
	for _, x := range all {
		if m, ok := x.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}
