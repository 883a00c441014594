package deploy

import (
	"fmt"
	"regexp"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ForeignError tells that an object which the app needs exists and is not the
// app's. Nothing was changed.
type ForeignError struct {
	Ref   Ref
	App   string
	Owner string // "\"helm\"", "Bight's app \"shop\""
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("%s in namespace %s belongs to %s, not to app %s: choose another namespace with -n, rename the service in bight.yaml, or delete the object",
		e.Ref, e.Ref.Namespace, e.Owner, e.App)
}

// ConflictError tells that somebody else has set fields to other values than
// the app's. The object was left as it is.
type ConflictError struct {
	Ref       Ref
	Conflicts []Conflict
}

// Conflict is one field and who set it.
type Conflict struct {
	Manager string
	Field   string
}

func (e *ConflictError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s in namespace %s was changed by somebody else:", e.Ref, e.Ref.Namespace)
	for _, c := range e.Conflicts {
		fmt.Fprintf(&b, "\n  %s was set by %q", c.Field, c.Manager)
	}
	b.WriteString("\nundo that there, set the same in bight.yaml, or run again with --take-over to overwrite it")
	return b.String()
}

// conflictOf reads the fields and managers out of a server-side apply's refusal,
// or returns nil for any other error.
func conflictOf(ref Ref, err error) *ConflictError {
	status, ok := err.(apierrors.APIStatus)
	if !ok || !apierrors.IsConflict(err) || status.Status().Details == nil {
		return nil
	}
	manager := regexp.MustCompile(`^conflict with "([^"]*)"`)
	e := &ConflictError{Ref: ref}
	for _, c := range status.Status().Details.Causes {
		if c.Type != metav1.CauseTypeFieldManagerConflict {
			continue
		}
		who := c.Message
		if m := manager.FindStringSubmatch(c.Message); m != nil {
			who = m[1]
		}
		e.Conflicts = append(e.Conflicts, Conflict{Manager: who, Field: strings.TrimPrefix(c.Field, ".")})
	}
	if len(e.Conflicts) == 0 {
		return nil
	}
	return e
}

// own reports whether every conflict is with an earlier write of ours, made by
// other means than apply.
func (e *ConflictError) own() bool {
	for _, c := range e.Conflicts {
		if c.Manager != FieldManager {
			return false
		}
	}
	return true
}

// RightsError names the rights that are missing. Nothing was changed.
type RightsError struct {
	User      string // "" where the cluster does not say
	Namespace string // "" for rights on the cluster as a whole
	Missing   []Right
	Advice    string
}

// Right is one verb on one kind of object.
type Right struct {
	Verb     string
	Group    string
	Resource string // "deployments", "pods/log"
}

func (r Right) String() string {
	if r.Group == "" {
		return r.Verb + " " + r.Resource
	}
	return r.Verb + " " + r.Resource + "." + r.Group
}

func (e *RightsError) Error() string {
	who := "you"
	if e.User != "" {
		who = fmt.Sprintf("you (%s)", e.User)
	}
	where := "in the cluster"
	if e.Namespace != "" {
		where = "in namespace " + e.Namespace
	}
	return fmt.Sprintf("%s may not %s %s: %s", who, listRights(e.Missing), where, e.Advice)
}

// listRights names the verbs of each kind of object together: "get, list pods;
// create deployments.apps".
func listRights(rights []Right) string {
	var order []string
	verbs := map[string][]string{}
	for _, r := range rights {
		what := strings.TrimPrefix(r.String(), r.Verb+" ")
		if verbs[what] == nil {
			order = append(order, what)
		}
		verbs[what] = append(verbs[what], r.Verb)
	}
	for i, what := range order {
		order[i] = strings.Join(verbs[what], ", ") + " " + what
	}
	return strings.Join(order, "; ")
}

// RefusedError tells that a quota or a policy of the cluster refuses an object.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string {
	return e.Err.Error() + "; this is a rule of the cluster: change what it names, or ask whoever runs the cluster"
}

// Unwrap gives the cluster's answer.
func (e *RefusedError) Unwrap() error { return e.Err }

// lacksRight reports whether a "forbidden" is the authorizer's, whose wording is
// the same in every cluster, and not a quota's or a policy's.
func lacksRight(err error) bool {
	return regexp.MustCompile(`User "[^"]*" cannot \S+ `).MatchString(err.Error())
}

// NamespaceError tells that a namespace cannot be used as it is.
type NamespaceError struct {
	Name   string
	Reason string // what is the matter and what to do, a clause
}

func (e *NamespaceError) Error() string { return "namespace " + e.Name + ": " + e.Reason }
