package policy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// town has the pods web, db and job in namespace shop, on nodes 1, 1 and 2, and spy in another.
func town(policies ...string) World {
	pod := func(namespace, name, ip, node string, ports ...core.ContainerPort) *core.Pod {
		return &core.Pod{
			ObjectMeta: meta.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}},
			Spec:       core.PodSpec{NodeName: node, Containers: []core.Container{{Ports: ports}}},
			Status:     core.PodStatus{PodIP: ip, Phase: core.PodRunning},
		}
	}
	namespace := func(name, team string) *core.Namespace {
		return &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: name, Labels: map[string]string{"team": team}}}
	}
	sql := core.ContainerPort{Name: "sql", ContainerPort: 5432, Protocol: core.ProtocolTCP}
	gone, of := pod("shop", "db", "10.42.0.3", "one", sql), pod("shop", "db", "10.42.0.1", "one", sql)
	gone.Status.Phase, of.Spec.HostNetwork = core.PodSucceeded, true
	w := World{
		DNS:        "10.0.0.1",
		Ranges:     map[string][]string{"one": {"10.42.0.0/24"}, "two": {"10.42.1.0/24"}},
		Namespaces: []*core.Namespace{namespace("shop", "red"), namespace("far", "blue"), namespace("kube-system", "")},
		Pods: []*core.Pod{
			pod("shop", "web", "10.42.0.2", "one"), gone, of,
			pod("shop", "db", "10.42.0.4", "one", sql), pod("shop", "job", "10.42.1.2", "two"), pod("far", "spy", "10.42.1.3", "two"),
		},
	}
	for _, text := range policies {
		np := &networking.NetworkPolicy{ObjectMeta: meta.ObjectMeta{Namespace: "shop"}}
		if err := yaml.UnmarshalStrict([]byte(text), &np.Spec); err != nil {
			panic(err)
		}
		w.Policies = append(w.Policies, np)
	}
	return w
}

// What lets connections in to db, or out of it, by the rules of its chain. None are what comes first
// (itself) and last (all others).
func TestRules(t *testing.T) {
	const to = "podSelector: {matchLabels: {app: db}}\npolicyTypes: [Ingress]\n"
	const from = "podSelector: {matchLabels: {app: db}}\npolicyTypes: [Egress]\n"
	for name, tt := range map[string]struct {
		policies []string
		in, out  string // "-" is no chain
	}{
		"no policy":            {nil, "-", "-"},
		"of other pods":        {[]string{"podSelector: {matchLabels: {app: web}}\npolicyTypes: [Ingress, Egress]"}, "-", "-"},
		"nobody":               {[]string{to}, "", "-"},
		"nowhere":              {[]string{from}, "-", ""},
		"everybody":            {[]string{to + "ingress: [{}]"}, "return", "-"},
		"pods of its own":      {[]string{to + "ingress: [{from: [{podSelector: {}}]}]"}, "ip saddr { 10.42.0.2, 10.42.0.4, 10.42.1.2 } return", "-"},
		"some":                 {[]string{to + "ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [db, job]}]}}]}]"}, "ip saddr { 10.42.0.2 } return", "-"},
		"pods of others":       {[]string{to + "ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}]}]"}, "ip saddr { 10.42.1.3 } return", "-"},
		"both selectors":       {[]string{to + "ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: job}}}]}]"}, "ip saddr { 10.42.1.2 } return", "-"},
		"none that is there":   {[]string{to + "ingress: [{from: [{podSelector: {matchLabels: {app: none}}}]}]"}, "", "-"},
		"a port by its name":   {[]string{to + "ingress: [{ports: [{port: sql, protocol: TCP}]}]"}, "tcp dport 5432 return", "-"},
		"a name it has not":    {[]string{to + "ingress: [{ports: [{port: web}]}]"}, "", "-"},
		"ports":                {[]string{to + "ingress: [{ports: [{port: 1, endPort: 9}, {port: 53, protocol: UDP}, {protocol: SCTP}]}]"}, "meta l4proto sctp return; tcp dport 1-9 return; udp dport 53 return", "-"},
		"peers and ports":      {[]string{to + "ingress: [{from: [{podSelector: {matchLabels: {app: web}}}, {ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: 80}]}]"}, "ip saddr 192.0.2.0/24 tcp dport 80 return; ip saddr { 10.42.0.2 } tcp dport 80 return", "-"},
		"blocks":               {[]string{from + "egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8, 'fd00::/8']}}, {ipBlock: {cidr: '::/0'}}]}]"}, "-", "ip daddr 0.0.0.0/0 ip daddr != { 10.0.0.0/8 } return"},
		"two policies":         {[]string{to + "ingress: [{ports: [{port: 1}]}]", to + "ingress: [{ports: [{port: 2}]}, {ports: [{port: 1}]}]"}, "tcp dport 1 return; tcp dport 2 return", "-"},
		"the others' names":    {[]string{from + "egress: [{to: [{podSelector: {}}], ports: [{port: sql}]}]"}, "-", "ip daddr 10.42.0.4 tcp dport 5432 return"},
		"anybody's names":      {[]string{from + "egress: [{ports: [{port: sql}]}]"}, "-", "ip daddr 10.42.0.4 tcp dport 5432 return"},
		"the name server":      {[]string{from + "egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}]}]"}, "-", "ip daddr { 10.0.0.1 } udp dport 53 return"},
		"both":                 {[]string{to, from + "egress: [{}]"}, "", "return"},
		"an unknown selection": {[]string{"podSelector: {matchExpressions: [{key: app, operator: Sometimes}]}\npolicyTypes: [Ingress]"}, "-", "-"},
	} {
		t.Run(name, func(t *testing.T) {
			script := town(tt.policies...).Rules("one")
			got := [2]string{chain(script, "in-10-42-0-4"), chain(script, "out-10-42-0-4")}
			if diff := cmp.Diff([2]string{tt.in, tt.out}, got); diff != "" {
				t.Errorf("(-want +got)\n%s\n%s", diff, script)
			}
		})
	}
}

// chain is what a chain of a script has between its first rule and its last, "-" if there is none.
func chain(script, name string) string {
	_, text, ok := strings.Cut(script, "\tchain "+name+" {\n")
	if !ok {
		return "-"
	}
	text, _, _ = strings.Cut(text, "\t}\n")
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	if last := len(lines) - 1; !strings.HasSuffix(lines[0], "addr 10.42.0.4 return") || lines[last] != "drop" {
		return "the first and last rules are " + lines[0] + " and " + lines[last]
	}
	return strings.Join(lines[1:len(lines)-1], "; ")
}

// The script is the same whatever the order in which things are known, and replaces what was there.
func TestScript(t *testing.T) {
	w := town("podSelector: {matchLabels: {app: db}}\npolicyTypes: [Ingress, Egress]\ningress: [{ports: [{port: 80}]}]",
		"podSelector: {matchLabels: {app: web}}\npolicyTypes: [Ingress]")
	want := `add table ip bight-policy
delete table ip bight-policy
table ip bight-policy {
	chain in-10-42-0-2 {
		ip saddr 10.42.0.2 return
		drop
	}
	chain out-10-42-0-4 {
		ip daddr 10.42.0.4 return
		drop
	}
	chain in-10-42-0-4 {
		ip saddr 10.42.0.4 return
		tcp dport 80 return
		drop
	}
	chain forward {
		type filter hook forward priority filter;
		ct state established,related accept
		ip saddr vmap { 10.42.0.4 : jump out-10-42-0-4 }
		ip daddr vmap { 10.42.0.2 : jump in-10-42-0-2, 10.42.0.4 : jump in-10-42-0-4 }
	}
	chain input {
		type filter hook input priority filter;
		ct state established,related accept
		iifname lo accept
		ip saddr vmap { 10.42.0.4 : jump out-10-42-0-4 }
	}
}
`
	if diff := cmp.Diff(want, w.Rules("one")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	w.Pods[0], w.Pods[3] = w.Pods[3], w.Pods[0]
	w.Policies[0], w.Policies[1] = w.Policies[1], w.Policies[0]
	if diff := cmp.Diff(want, w.Rules("one")); diff != "" {
		t.Errorf("in another order (-want +got)\n%s", diff)
	}
	if got := w.Rules("two"); got != "add table ip bight-policy\ndelete table ip bight-policy\n" {
		t.Errorf("a node without such pods has\n%s", got)
	}
}

// An address may have a new pod before the old one is known to have ended.
func TestAnAddressHasOnePod(t *testing.T) {
	w := town("podSelector: {matchLabels: {app: new}}\npolicyTypes: [Ingress]")
	next := w.Pods[3].DeepCopy()
	next.Name, next.Labels, next.CreationTimestamp = "new", map[string]string{"app": "new"}, meta.Now()
	w.Pods = append(w.Pods, next)
	if script := w.Rules("one"); chain(script, "in-10-42-0-4") != "" {
		t.Errorf("it has\n%s", script)
	}
	next.CreationTimestamp, w.Pods[3].CreationTimestamp = meta.Time{}, meta.Now()
	if script := w.Rules("one"); chain(script, "in-10-42-0-4") != "-" {
		t.Errorf("the old one's:\n%s", script)
	}
}

// While a pod that policies are about is on its way, so is everybody whose address is not known.
func TestAwaited(t *testing.T) {
	const nowhere = "podSelector: {matchLabels: {app: late}}\npolicyTypes: [Egress]"
	late := &core.Pod{
		ObjectMeta: meta.ObjectMeta{Namespace: "shop", Name: "late", Labels: map[string]string{"app": "late"}},
		Spec:       core.PodSpec{NodeName: "two"},
	}
	w := town(nowhere)
	w.Pods = append(w.Pods, late)
	const cut = "\t\tip saddr 10.42.1.0/24 ip saddr != { 10.42.1.2, 10.42.1.3 } drop\n"
	for node, want := range map[string]int{"one": 0, "two": 2} { // from pods to pods, and to the node
		if script := w.Rules(node); strings.Count(script, cut) != want || strings.Contains(script, "ip daddr 10.42.1.0/24") {
			t.Errorf("node %s has\n%s", node, script)
		}
	}
	late.Status.PodIP = "10.42.1.9"
	if script := w.Rules("two"); strings.Contains(script, "10.42.1.0/24") || chain(script, "out-10-42-1-9") == "-" {
		t.Errorf("when it is known:\n%s", script)
	}
	late.Status.PodIP, w.Policies = "", nil
	if script := w.Rules("two"); strings.Contains(script, "10.42.1.0/24") {
		t.Errorf("without a policy:\n%s", script)
	}
}

// Where pods have addresses of both families, what holds for one holds for the other.
func TestBothFamilies(t *testing.T) {
	w := town("podSelector: {matchLabels: {app: db}}\npolicyTypes: [Ingress, Egress]\n" +
		"ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: sql}]}, {from: [{ipBlock: {cidr: 'fd00::/8', except: ['fd00:1::/32', 10.0.0.0/8]}}]}]\n" +
		"egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]}]")
	four := w.Rules("one")
	w.Ranges["one"] = append(w.Ranges["one"], "fd00:10:42:1::/64")
	for i, name := range []string{"2", "3", "1", "4"} {
		w.Pods[i].Status.PodIPs = []core.PodIP{{IP: w.Pods[i].Status.PodIP}, {IP: "fd00:10:42:1::" + name}}
	}
	six, ok := strings.CutPrefix(w.Rules("one"), four)
	if !ok {
		t.Errorf("the rules of IPv4 are others than before: %s", w.Rules("one"))
	}
	want := `add table ip6 bight-policy
delete table ip6 bight-policy
table ip6 bight-policy {
	chain out-fd00-10-42-1--4 {
		ip6 daddr fd00:10:42:1::4 return
		drop
	}
	chain in-fd00-10-42-1--4 {
		ip6 saddr fd00:10:42:1::4 return
		ip6 saddr fd00::/8 ip6 saddr != { fd00:1::/32 } return
		ip6 saddr { fd00:10:42:1::2 } tcp dport 5432 return
		drop
	}
	chain forward {
		type filter hook forward priority filter;
		ct state established,related accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept
		ip6 saddr vmap { fd00:10:42:1::4 : jump out-fd00-10-42-1--4 }
		ip6 daddr vmap { fd00:10:42:1::4 : jump in-fd00-10-42-1--4 }
	}
	chain input {
		type filter hook input priority filter;
		ct state established,related accept
		iifname lo accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept
		ip6 saddr vmap { fd00:10:42:1::4 : jump out-fd00-10-42-1--4 }
	}
}
`
	if diff := cmp.Diff(want, six); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
