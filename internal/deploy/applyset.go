package deploy

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The names of the ApplySet specification (KEP-3659).
const (
	labelSetID     = "applyset.kubernetes.io/id"
	labelSetMember = "applyset.kubernetes.io/part-of"
	annotationTool = "applyset.kubernetes.io/tooling"
	annotationGKs  = "applyset.kubernetes.io/contains-group-kinds"

	tooling = FieldManager + "/v1.0.0" // the version is the record's form

	recordKey = "members"
)

// parentName is the name of the ConfigMap that remembers what Bight deployed
// of an app, and of the Secret with the agents' token.
func parentName(appName string) string { return "bight-" + appName }

// setID is the ApplySet's identity, computed from its parent as the
// specification wants it.
func setID(appName, namespace string) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{parentName(appName), namespace, "ConfigMap", ""}, ".")))
	return "applyset-" + base64.RawURLEncoding.EncodeToString(sum[:]) + "-v1"
}

// record is what the parent remembers of the last successful apply, by member.
type record map[string]member

// member is one object as it was when Bight last applied it.
type member struct {
	Digest  string `json:"digest"`  // of the rendered object
	UID     string `json:"uid"`     // a new UID is another object
	Version string `json:"version"` // see versionOf
}

// existing is an object of the namespace that is labelled as a member.
type existing struct {
	Ref
	uid      string
	version  string // see versionOf
	revision string // resourceVersion
	deleting bool
}

func memberKey(r Ref) string { return r.groupKind().String() + "/" + r.Name }

// versionOf changes whenever somebody changed what Bight decides about u: its
// generation where the kind has one, else its resourceVersion. A volume claim is
// written to by controllers all the time and may not be changed by anyone, so
// being there is enough.
func versionOf(u *unstructured.Unstructured) string {
	if k, ok := kindOf(u.GroupVersionKind().GroupKind()); ok && k.keep {
		return "there"
	}
	if g := u.GetGeneration(); g > 0 {
		return "g" + strconv.FormatInt(g, 10)
	}
	return "r" + u.GetResourceVersion()
}

func existingOf(u *unstructured.Unstructured) existing {
	gk := u.GroupVersionKind().GroupKind()
	return existing{
		Ref:      Ref{Group: gk.Group, Kind: gk.Kind, Namespace: u.GetNamespace(), Name: u.GetName()},
		uid:      string(u.GetUID()),
		version:  versionOf(u),
		revision: u.GetResourceVersion(),
		deleting: u.GetDeletionTimestamp() != nil,
	}
}

// digest identifies a rendered object.
func (o Object) digest() string {
	sum := sha256.Sum256(o.JSON)
	return hex.EncodeToString(sum[:12])
}

// steps is what makes a namespace equal to the rendered objects.
type steps struct {
	apply     []Object
	unchanged []Object
	prune     []existing
	kept      []existing // no longer rendered, but they hold data or somebody needs them
}

// plan compares what is wanted with what the record says was applied and what
// is there now. An object is left alone only if all three agree.
func plan(objs []Object, rec record, there map[string]existing, leave func(Ref) bool) steps {
	var st steps
	wanted := map[string]bool{}
	for _, o := range objs {
		key := memberKey(o.Ref)
		wanted[key] = true
		e, found := there[key]
		m, known := rec[key]
		if found && !e.deleting && leave != nil && leave(o.Ref) {
			st.kept = append(st.kept, e)
			continue
		}
		if found && known && !e.deleting && m == (member{Digest: o.digest(), UID: e.uid, Version: e.version}) {
			st.unchanged = append(st.unchanged, o)
		} else {
			st.apply = append(st.apply, o)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(there)) {
		e := there[key]
		if wanted[key] || e.deleting {
			continue
		}
		if k, ok := kindOf(e.groupKind()); ok && k.keep || leave != nil && leave(e.Ref) {
			st.kept = append(st.kept, e)
		} else {
			st.prune = append(st.prune, e)
		}
	}
	return st
}

// groupKinds lists the kinds of the members, as the parent's annotation has it.
func groupKinds(refs []Ref) string {
	set := map[string]bool{}
	for _, r := range refs {
		set[r.groupKind().String()] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(set)), ",")
}

// unionGroupKinds merges two such annotations.
func unionGroupKinds(a, b string) string {
	set := map[string]bool{}
	for _, gk := range strings.Split(a+","+b, ",") {
		if gk != "" {
			set[gk] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(set)), ",")
}

// unknownKinds returns the kinds in the annotation that this program does not
// render: a newer one deployed them, and pruning without them would be wrong.
func unknownKinds(annotation string) []string {
	var unknown []string
	for _, s := range strings.Split(annotation, ",") {
		if s == "" {
			continue
		}
		if _, ok := kindOf(schema.ParseGroupKind(s)); !ok {
			unknown = append(unknown, s)
		}
	}
	return unknown
}

// parent is the ConfigMap that stands for the ApplySet.
type parent struct {
	found      bool
	groupKinds string
	record     record
}

// readParent understands the parent. One that another tool made is refused.
func readParent(u *unstructured.Unstructured, appName string) (parent, error) {
	ref := Ref{Kind: "ConfigMap", Namespace: u.GetNamespace(), Name: u.GetName()}
	if u.GetLabels()[labelSetID] != setID(appName, u.GetNamespace()) {
		return parent{}, &ForeignError{Ref: ref, App: appName, Owner: ownerOf(u)}
	}
	if tool, _, _ := strings.Cut(u.GetAnnotations()[annotationTool], "/"); tool != FieldManager {
		return parent{}, &ForeignError{Ref: ref, App: appName, Owner: "the tool " + strconv.Quote(tool)}
	}
	p := parent{found: true, groupKinds: u.GetAnnotations()[annotationGKs], record: record{}}
	text, _, _ := unstructured.NestedString(u.Object, "data", recordKey)
	if text == "" {
		return p, nil
	}
	if err := json.Unmarshal([]byte(text), &p.record); err != nil {
		// A record that cannot be read is as good as none: everything is applied
		// once more, which changes nothing that is as it should be.
		p.record = record{}
	}
	return p, nil
}

// object renders the parent.
func (p parent) object(appName, namespace string) (*unstructured.Unstructured, error) {
	b, err := json.Marshal(p.record)
	if err != nil {
		return nil, fmt.Errorf("record of app %s: %w", appName, err)
	}
	labels := map[string]any{labelSetID: setID(appName, namespace), labelName: appName}
	for k, v := range appLabels(appName) {
		labels[k] = v
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1",
		"kind":       "ConfigMap",
		"metadata": map[string]any{
			"name": parentName(appName), "namespace": namespace, "labels": labels,
			"annotations": map[string]any{annotationTool: tooling, annotationGKs: p.groupKinds},
		},
		"data": map[string]any{recordKey: string(b)},
	}}, nil
}

// ownerOf says whose an object is, as far as it tells.
func ownerOf(u *unstructured.Unstructured) string {
	l := u.GetLabels()
	if l[labelManagedBy] == FieldManager && l[labelInstance] != "" {
		return "Bight's app " + strconv.Quote(l[labelInstance])
	}
	if by := l[labelManagedBy]; by != "" {
		return strconv.Quote(by)
	}
	fields := u.GetManagedFields()
	for i := range fields {
		if fields[i].Subresource == "" && fields[i].Manager != "" {
			return strconv.Quote(fields[i].Manager)
		}
	}
	return "somebody else"
}

func compareRefs(a, b Ref) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
}
