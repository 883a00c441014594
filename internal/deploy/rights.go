package deploy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"golang.org/x/sync/errgroup"
)

// neededFor lists the rights that it takes to write objects of these kinds, or of
// every kind with nil, and to watch them come up.
func neededFor(objs []Object) []Right {
	var need []Right
	seen := map[string]bool{}
	resources := []kind{{resource: "configmaps"}} // the record
	resources[0].Kind = "ConfigMap"
	if objs == nil {
		resources = append(resources, kinds()...)
	}
	for _, o := range objs {
		if k, ok := kindOf(o.groupKind()); ok {
			resources = append(resources, k)
		}
	}
	for _, k := range resources {
		if seen[k.resource] {
			continue
		}
		seen[k.resource] = true
		for _, verb := range []string{"get", "list", "create", "patch"} {
			need = append(need, Right{Verb: verb, Group: k.Group, Resource: k.resource})
		}
	}
	return append(need,
		Right{Verb: "watch", Group: "apps", Resource: "deployments"},
		Right{Verb: "list", Group: "apps", Resource: "replicasets"},
		Right{Verb: "watch", Group: "apps", Resource: "replicasets"},
		Right{Verb: "list", Resource: "pods"},
		Right{Verb: "watch", Resource: "pods"})
}

// missing returns those of need that the user lacks in a namespace. It asks for
// all rules at once, and for the few that these do not grant one by one, since
// a cluster may grant what it cannot list.
func missing(ctx context.Context, client kubernetes.Interface, namespace string, need []Right) ([]Right, error) {
	review, err := client.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx,
		&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("ask for your rights in namespace %s: %w", namespace, err)
	}
	need = slices.DeleteFunc(slices.Clone(need), func(r Right) bool {
		return slices.ContainsFunc(review.Status.ResourceRules, func(rule authorizationv1.ResourceRule) bool { return grants(rule, r) })
	})
	allowed := make([]bool, len(need))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, r := range need {
		g.Go(func() (err error) {
			allowed[i], err = may(ctx, client, namespace, r)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var lacking []Right
	for i, r := range need {
		if !allowed[i] {
			lacking = append(lacking, r)
		}
	}
	return lacking, nil
}

// grants reports whether a rule, which is not limited to named objects, allows r.
func grants(rule authorizationv1.ResourceRule, r Right) bool {
	has := func(list []string, want string) bool {
		return slices.Contains(list, want) || slices.Contains(list, "*")
	}
	return len(rule.ResourceNames) == 0 && has(rule.Verbs, r.Verb) && has(rule.APIGroups, r.Group) && has(rule.Resources, r.Resource)
}

// may asks the cluster whether the user has one right.
func may(ctx context.Context, client kubernetes.Interface, namespace string, r Right) (bool, error) {
	resource, sub, _ := strings.Cut(r.Resource, "/")
	review, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx,
		&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: namespace, Verb: r.Verb, Group: r.Group, Resource: resource, Subresource: sub,
			},
		}}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("ask whether you may %s in namespace %s: %w", r, namespace, err)
	}
	return review.Status.Allowed, nil
}

// userName is who the cluster takes the user for, "" where it does not say.
func userName(ctx context.Context, client kubernetes.Interface) string {
	r, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return ""
	}
	return r.Status.UserInfo.Username
}

// refusal turns an API server's "forbidden" for r into a RightsError.
func refusal(ctx context.Context, client kubernetes.Interface, namespace string, missing ...Right) *RightsError {
	return &RightsError{
		User: userName(ctx, client), Namespace: namespace, Missing: missing,
		Advice: "ask whoever runs the cluster for the role \"edit\" in that namespace, or choose a namespace of your own with -n",
	}
}
