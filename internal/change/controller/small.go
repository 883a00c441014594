package controller

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
)

func lower(s string) string { return strings.ToLower(s) }

func ownedBy(a *v1alpha1.App) []metav1.OwnerReference {
	return []metav1.OwnerReference{*metav1.NewControllerRef(a, v1alpha1.GroupVersion().WithKind("App"))}
}
