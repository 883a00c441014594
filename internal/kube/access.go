package kube

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	authv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Access is one right: to do Verb with a resource.
type Access struct {
	Verb        string
	Group       string // "" is the core group
	Resource    string // "pods"
	Subresource string // "portforward"
	Namespace   string // "" for the whole cluster
	Name        string // "" for any
}

// granting is the role that grants rights, as its manifest has it:
//
//	a Role in namespace shop with the rule {apiGroups: [""], resources: [pods/portforward], verbs: [create]}
func granting(rights []Access) string {
	role, namespace := "Role", ""
	var order []string
	verbs := map[string][]string{}
	for _, a := range rights {
		if namespace = a.Namespace; namespace == "" {
			role = "ClusterRole"
		}
		what := fmt.Sprintf("apiGroups: [%s], resources: [%s]", cmp.Or(a.Group, `""`), strings.TrimSuffix(a.Resource+"/"+a.Subresource, "/"))
		if strings.HasPrefix(a.Resource, "/") {
			what = fmt.Sprintf("nonResourceURLs: [%s]", a.Resource)
		}
		if a.Name != "" {
			what += fmt.Sprintf(", resourceNames: [%s]", a.Name)
		}
		if verbs[what] == nil {
			order = append(order, what)
		}
		verbs[what] = append(verbs[what], a.Verb)
	}
	for i, what := range order {
		order[i] = fmt.Sprintf("{%s, verbs: [%s]}", what, strings.Join(verbs[what], ", "))
	}
	where, rule := "", "the rule "
	if role == "Role" {
		where = " in namespace " + namespace
	}
	if len(order) > 1 {
		rule = "the rules "
	}
	return "a " + role + where + " with " + rule + strings.Join(order, ", ")
}

// String reads "create pods/portforward in namespace shop".
func (a Access) String() string {
	var b strings.Builder
	b.WriteString(a.Verb + " " + a.Resource)
	if a.Subresource != "" {
		b.WriteString("/" + a.Subresource)
	}
	if a.Group != "" {
		b.WriteString("." + a.Group)
	}
	if a.Name != "" {
		b.WriteString(" " + a.Name)
	}
	if a.Namespace != "" {
		b.WriteString(" in namespace " + a.Namespace)
	}
	return b.String()
}

// ParseAccess reads a resource the way that kubectl writes it: "pods",
// "deployments.apps", "pods/portforward", "deployments.apps/scale".
func ParseAccess(verb, resource, namespace string) Access {
	a := Access{Verb: verb, Namespace: namespace}
	name, sub, _ := strings.Cut(resource, "/")
	a.Subresource = sub
	a.Resource, a.Group, _ = strings.Cut(name, ".")
	return a
}

// Can reports whether the user may do verb with resource, written as for
// [ParseAccess].
func (c *Cluster) Can(ctx context.Context, verb, resource, namespace string) (bool, error) {
	missing, err := c.Missing(ctx, []Access{ParseAccess(verb, resource, namespace)})
	return len(missing) == 0 && err == nil, err
}

// Missing returns those of wanted that the user does not have, in their order.
func (c *Cluster) Missing(ctx context.Context, wanted []Access) ([]Access, error) {
	client, err := c.Typed()
	if err != nil {
		return nil, err
	}
	denied := make([]bool, len(wanted))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, a := range wanted {
		g.Go(func() error {
			review := &authv1.SelfSubjectAccessReview{Spec: authv1.SelfSubjectAccessReviewSpec{
				ResourceAttributes: &authv1.ResourceAttributes{
					Verb: a.Verb, Group: a.Group, Resource: a.Resource, Subresource: a.Subresource,
					Namespace: a.Namespace, Name: a.Name,
				},
			}}
			got, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			if err != nil {
				return fmt.Errorf("ask whether we may %s: %w", a, c.Explain(err))
			}
			denied[i] = !got.Status.Allowed
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var missing []Access
	for i, a := range wanted {
		if denied[i] && !slices.Contains(missing, a) {
			missing = append(missing, a)
		}
	}
	return missing, nil
}

// Require is Missing as an error: one [*Error] that names all that is missing.
func (c *Cluster) Require(ctx context.Context, wanted []Access) error {
	missing, err := c.Missing(ctx, wanted)
	if err != nil || len(missing) == 0 {
		return err
	}
	return missingError(subject{context: c.Context, server: c.Server}, missing, "")
}
