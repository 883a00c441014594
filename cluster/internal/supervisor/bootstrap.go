package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	rbac "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/bightdev/bight/cluster/internal/component"
	"github.com/bightdev/bight/cluster/internal/spec"
	"github.com/bightdev/bight/cluster/internal/storage"
)

// object is something that every cluster has from the start.
type object struct {
	client   rest.Interface
	resource string
	space    string
	name     string
	value    runtime.Object
}

// applyBootstrap makes the objects that the cluster's own services need.
func applyBootstrap(ctx context.Context, client kubernetes.Interface, c *spec.Cluster) error {
	for _, o := range bootstrapObjects(client, c) {
		body, err := json.Marshal(o.value)
		if err != nil {
			return err
		}
		force := true
		err = o.client.Patch(types.ApplyPatchType).
			NamespaceIfScoped(o.space, o.space != "").
			Resource(o.resource).Name(o.name).
			VersionedParams(&meta.PatchOptions{FieldManager: "bight-cluster", Force: &force}, meta.ParameterCodec).
			Body(body).Do(ctx).Error()
		if err != nil {
			return fmt.Errorf("apply %s %s: %w", o.resource, o.name, err)
		}
	}
	return nil
}

func bootstrapObjects(client kubernetes.Interface, c *spec.Cluster) []object {
	inside := "localhost:" + strconv.Itoa(spec.RegistryPort)
	pods := net.JoinHostPort(c.Node(1).Address, strconv.Itoa(spec.RegistryPort))
	servicePorts, endpointPorts := dnsPorts()
	reclaim, binding, ready := core.PersistentVolumeReclaimDelete, storagev1.VolumeBindingImmediate, true
	rbacType := meta.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1"}
	kind := func(t meta.TypeMeta, kind string) meta.TypeMeta { t.Kind = kind; return t }
	coreType := func(kind string) meta.TypeMeta { return meta.TypeMeta{APIVersion: "v1", Kind: kind} }

	return []object{
		{client.RbacV1().RESTClient(), "clusterroles", "", component.DNSUser, &rbac.ClusterRole{
			TypeMeta: kind(rbacType, "ClusterRole"), ObjectMeta: meta.ObjectMeta{Name: component.DNSUser},
			Rules: []rbac.PolicyRule{
				{Verbs: []string{"list", "watch"}, APIGroups: []string{""}, Resources: []string{"services", "pods", "namespaces"}},
				{Verbs: []string{"list", "watch"}, APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}},
			},
		}},
		{client.RbacV1().RESTClient(), "clusterrolebindings", "", component.DNSUser, &rbac.ClusterRoleBinding{
			TypeMeta: kind(rbacType, "ClusterRoleBinding"), ObjectMeta: meta.ObjectMeta{Name: component.DNSUser},
			RoleRef:  rbac.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: component.DNSUser},
			Subjects: []rbac.Subject{{APIGroup: "rbac.authorization.k8s.io", Kind: "User", Name: component.DNSUser}},
		}},
		{client.CoreV1().RESTClient(), "services", "kube-system", "kube-dns", &core.Service{
			TypeMeta: coreType("Service"),
			ObjectMeta: meta.ObjectMeta{Name: "kube-dns", Namespace: "kube-system", Labels: map[string]string{
				"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS",
			}},
			Spec: core.ServiceSpec{ClusterIP: spec.ServiceDNS, Ports: servicePorts},
		}},
		{client.DiscoveryV1().RESTClient(), "endpointslices", "kube-system", "kube-dns", &discovery.EndpointSlice{
			TypeMeta: meta.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
			ObjectMeta: meta.ObjectMeta{Name: "kube-dns", Namespace: "kube-system", Labels: map[string]string{
				discovery.LabelServiceName: "kube-dns", discovery.LabelManagedBy: "bight.dev",
			}},
			AddressType: discovery.AddressTypeIPv4,
			Endpoints:   []discovery.Endpoint{{Addresses: []string{c.Node(1).Address}, Conditions: discovery.EndpointConditions{Ready: &ready}}},
			Ports:       endpointPorts,
		}},
		{client.StorageV1().RESTClient(), "storageclasses", "", "standard", &storagev1.StorageClass{
			TypeMeta: meta.TypeMeta{APIVersion: "storage.k8s.io/v1", Kind: "StorageClass"},
			ObjectMeta: meta.ObjectMeta{Name: "standard", Annotations: map[string]string{
				"storageclass.kubernetes.io/is-default-class": "true",
			}},
			Provisioner: storage.Provisioner, ReclaimPolicy: &reclaim, VolumeBindingMode: &binding,
		}},
		// KEP-1755: how tools find the registry.
		{client.CoreV1().RESTClient(), "configmaps", "kube-public", "local-registry-hosting", &core.ConfigMap{
			TypeMeta: coreType("ConfigMap"), ObjectMeta: meta.ObjectMeta{Name: "local-registry-hosting", Namespace: "kube-public"},
			Data: map[string]string{"localRegistryHosting.v1": fmt.Sprintf(
				"host: %q\nhostFromContainerRuntime: %q\nhostFromClusterNetwork: %q\nhelp: \"https://kubernetes.io/docs/tasks/\"\n", c.RegistryHost(), inside, pods)},
		}},
		{client.RbacV1().RESTClient(), "roles", "kube-public", "local-registry-hosting", &rbac.Role{
			TypeMeta: kind(rbacType, "Role"), ObjectMeta: meta.ObjectMeta{Name: "local-registry-hosting", Namespace: "kube-public"},
			Rules: []rbac.PolicyRule{{
				Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"local-registry-hosting"},
			}},
		}},
		{client.RbacV1().RESTClient(), "rolebindings", "kube-public", "local-registry-hosting", &rbac.RoleBinding{
			TypeMeta: kind(rbacType, "RoleBinding"), ObjectMeta: meta.ObjectMeta{Name: "local-registry-hosting", Namespace: "kube-public"},
			RoleRef:  rbac.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: "local-registry-hosting"},
			Subjects: []rbac.Subject{{APIGroup: "rbac.authorization.k8s.io", Kind: "Group", Name: "system:authenticated"}},
		}},
	}
}

func dnsPorts() (service []core.ServicePort, endpoint []discovery.EndpointPort) {
	port := int32(53)
	for _, p := range []struct {
		name     string
		protocol core.Protocol
	}{{"dns", core.ProtocolUDP}, {"dns-tcp", core.ProtocolTCP}} {
		service = append(service, core.ServicePort{Name: p.name, Protocol: p.protocol, Port: port})
		endpoint = append(endpoint, discovery.EndpointPort{Name: &p.name, Protocol: &p.protocol, Port: &port})
	}
	return service, endpoint
}
