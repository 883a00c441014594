package podview

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/bightdev/bight/internal/reach"
)

// fieldValue is a field of the pod as the downward API gives it.
func fieldValue(pod *corev1.Pod, path string) (string, error) {
	if field, key, ok := strings.Cut(strings.TrimSuffix(path, "']"), "['"); ok && strings.HasSuffix(path, "']") {
		switch field {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return mapText(pod.Labels), nil
	case "metadata.annotations":
		return mapText(pod.Annotations), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return serviceAccount(pod), nil
	case "status.hostIP":
		return pod.Status.HostIP, nil
	case "status.hostIPs":
		var ips []string
		for _, ip := range pod.Status.HostIPs {
			ips = append(ips, ip.IP)
		}
		return cmp.Or(strings.Join(ips, ","), pod.Status.HostIP), nil
	case "status.podIP":
		return pod.Status.PodIP, nil
	case "status.podIPs":
		return strings.Join(podIPs(pod), ","), nil
	}
	return "", fmt.Errorf("field %s of the pod is not one that the downward API gives", path)
}

// mapText is one line, key="value", per entry, in their order.
func mapText(m map[string]string) string {
	var lines []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, k+"="+strconv.Quote(m[k]))
	}
	return strings.Join(lines, "\n")
}

func podIPs(pod *corev1.Pod) []string {
	var ips []string
	for _, ip := range pod.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	if len(ips) == 0 && pod.Status.PodIP != "" {
		ips = []string{pod.Status.PodIP}
	}
	return ips
}

func serviceAccount(pod *corev1.Pod) string {
	return cmp.Or(pod.Spec.ServiceAccountName, "default")
}

// resourceValue is a limit or a request, in units of the divisor, rounded up. A
// limit that is not set is what the node has.
func resourceValue(pod *corev1.Pod, c *corev1.Container, f *corev1.ResourceFieldSelector, allocatable corev1.ResourceList) (string, error) {
	if f.ContainerName != "" {
		other, err := findContainer(pod, f.ContainerName)
		if err != nil {
			return "", err
		}
		c = other
	}
	kind, name, _ := strings.Cut(f.Resource, ".")
	key := corev1.ResourceName(name)
	if !nodeLimits(name) && !strings.HasPrefix(name, corev1.ResourceHugePagesPrefix) {
		return "", fmt.Errorf("resource %s is not one that the downward API gives", f.Resource)
	}
	var q resource.Quantity
	switch kind {
	case "limits":
		q = c.Resources.Limits[key]
		if q.IsZero() && nodeLimits(name) {
			if allocatable == nil {
				return "", fmt.Errorf("%s is not set, and so the node's, which can't be read", f.Resource)
			}
			q = allocatable[key]
		}
	case "requests":
		q = c.Resources.Requests[key]
	default:
		return "", fmt.Errorf("resource %s is not one that the downward API gives", f.Resource)
	}
	divisor := f.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if key == corev1.ResourceCPU {
		return ratio(q.MilliValue(), divisor.MilliValue()), nil
	}
	return ratio(q.Value(), divisor.Value()), nil
}

func ratio(n, by int64) string {
	if by <= 0 {
		by = 1
	}
	up := n / by
	if n%by > 0 {
		up++
	}
	return strconv.FormatInt(up, 10)
}

// identity is who the process runs as, as far as the pod says so.
func identity(p *reach.Pod, pod *corev1.Pod, c *corev1.Container) {
	if s := pod.Spec.SecurityContext; s != nil {
		set(&p.UID, s.RunAsUser)
		set(&p.GID, s.RunAsGroup)
		for _, g := range s.SupplementalGroups {
			p.Groups = append(p.Groups, int(g))
		}
		if s.FSGroup != nil {
			p.Groups = append(p.Groups, int(*s.FSGroup))
		}
	}
	if s := c.SecurityContext; s != nil {
		set(&p.UID, s.RunAsUser)
		set(&p.GID, s.RunAsGroup)
	}
}

func set(to *int, from *int64) {
	if from != nil {
		*to = int(*from)
	}
}

func hostname(pod *corev1.Pod) string {
	const longest = 63
	if pod.Spec.HostNetwork {
		return pod.Spec.NodeName
	}
	name := cmp.Or(pod.Spec.Hostname, pod.Name)
	return strings.TrimRight(name[:min(len(name), longest)], "-.")
}

// resolvConf is what the pod itself says; what the cluster adds by its policy the
// API does not tell.
func resolvConf(pod *corev1.Pod) string {
	d := pod.Spec.DNSConfig
	if pod.Spec.DNSPolicy != corev1.DNSNone || d == nil {
		return ""
	}
	var b strings.Builder
	if len(d.Searches) > 0 {
		fmt.Fprintln(&b, "search", strings.Join(d.Searches, " "))
	}
	for _, n := range d.Nameservers {
		fmt.Fprintln(&b, "nameserver", n)
	}
	var options []string
	for _, o := range d.Options {
		text := o.Name
		if o.Value != nil && *o.Value != "" {
			text += ":" + *o.Value
		}
		options = append(options, text)
	}
	if len(options) > 0 {
		fmt.Fprintln(&b, "options", strings.Join(options, " "))
	}
	return b.String()
}

// hosts is what kubelet writes to /etc/hosts; of a pod in its node's network the
// node's file is not known.
func hosts(pod *corev1.Pod) string {
	if pod.Spec.HostNetwork {
		return ""
	}
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	b.WriteString("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
	for _, ip := range podIPs(pod) {
		fmt.Fprintf(&b, "%s\t%s\n", ip, hostname(pod))
	}
	for _, a := range pod.Spec.HostAliases {
		fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
	}
	return b.String()
}
