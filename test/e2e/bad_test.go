//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/ptr"

	"github.com/google/go-cmp/cmp"
)

// refusal is what a command that is refused says, and with which code it ends.
type refusal struct {
	code int
	says []string // regular expressions, all of which stderr has to match
	env  []string
}

// refused runs a command that has to be refused, and checks that neither the
// source nor the cluster is another afterwards. It returns what was said.
func (l *lab) refused(want refusal, args ...string) string {
	l.Helper()
	files, objects := l.files(), l.objects()
	out, errs, code := l.bightWith(want.env, args...)
	if code != want.code {
		l.Errorf("bight %s: exit code %d, want %d", strings.Join(args, " "), code, want.code)
	}
	for _, pattern := range want.says {
		if !regexp.MustCompile(pattern).MatchString(errs) {
			l.Errorf("bight %s does not say %q but:\n%s", strings.Join(args, " "), pattern, errs)
		}
	}
	if out != "" {
		l.Errorf("bight %s writes to stdout:\n%s", strings.Join(args, " "), out)
	}
	if d := cmp.Diff(files, l.files()); d != "" {
		l.Errorf("the source was changed (-before +after):\n%s", d)
	}
	if d := cmp.Diff(objects, l.objects()); d != "" {
		l.Errorf("the cluster was changed (-before +after):\n%s", d)
	}
	return errs
}

// files are the digests of what is in the source, by path.
func (l *lab) files() map[string]string {
	l.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(l.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			all[path] = e.Type().String()
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = fmt.Sprintf("%x", sha256.Sum256(b))
		return err
	})
	if err != nil {
		l.Fatal(err)
	}
	return all
}

// objects are the objects that a deploy makes, in the lab's namespace; nil when
// there is no such namespace.
func (l *lab) objects() []string {
	l.Helper()
	must := func(err error) {
		l.Helper()
		if err != nil {
			l.Fatal(err)
		}
	}
	_, err := client.CoreV1().Namespaces().Get(context(), l.namespace, meta.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	must(err)
	all := []string{"namespace"}
	add := func(o meta.Object) {
		all = append(all, fmt.Sprintf("%T %s %s", o, o.GetName(), o.GetResourceVersion()))
	}
	options := meta.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=bight"}
	deployments, err := client.AppsV1().Deployments(l.namespace).List(context(), options)
	must(err)
	for i := range deployments.Items {
		add(&deployments.Items[i])
	}
	services, err := client.CoreV1().Services(l.namespace).List(context(), options)
	must(err)
	for i := range services.Items {
		add(&services.Items[i])
	}
	maps, err := client.CoreV1().ConfigMaps(l.namespace).List(context(), options)
	must(err)
	for i := range maps.Items {
		add(&maps.Items[i])
	}
	secrets, err := client.CoreV1().Secrets(l.namespace).List(context(), options)
	must(err)
	for i := range secrets.Items {
		add(&secrets.Items[i])
	}
	leases, err := client.CoordinationV1().Leases(l.namespace).List(context(), options)
	must(err)
	for _, lease := range leases.Items { // which a session renews meanwhile
		all = append(all, fmt.Sprintf("%T %s of %s", lease, lease.Name, ptr.Deref(lease.Spec.HolderIdentity, "nobody")))
	}
	slices.Sort(all)
	return all
}

// kubeconfig writes a kubeconfig for the test's cluster that change has changed,
// and returns its path. Its context is called dev.
func kubeconfig(t *testing.T, change func(*api.Cluster, *api.AuthInfo)) string {
	t.Helper()
	cluster := &api.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData}
	user := &api.AuthInfo{ClientCertificateData: config.CertData, ClientKeyData: config.KeyData}
	change(cluster, user)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	err := clientcmd.WriteToFile(api.Config{
		CurrentContext: "dev",
		Clusters:       map[string]*api.Cluster{"c": cluster},
		AuthInfos:      map[string]*api.AuthInfo{"u": user},
		Contexts:       map[string]*api.Context{"dev": {Cluster: "c", AuthInfo: "u"}},
	}, file)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// as is a kubeconfig that impersonates a user.
func as(t *testing.T, user string) string {
	return kubeconfig(t, func(_ *api.Cluster, u *api.AuthInfo) { u.Impersonate = user })
}

func TestBadSourceIsRefused(t *testing.T) {
	hello := map[string]string{"go.mod": goMod, "main.go": server("first")}
	with := func(path, content string) map[string]string {
		files := maps.Clone(hello)
		files[path] = content
		return files
	}
	tests := []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"NoSource", nil, []string{`^error: nothing to run: .* is no source tree that bight can run: .*; run bight in the directory of your code\n$`}},
		{"NoService", map[string]string{"go.mod": goMod, "main.go": "package main\n\nfunc main() {}\n"},
			[]string{`no runnable service`, `main.go:3: .* does not listen on any port`, `write in bight.yaml: services: `}},
		{"TwoOfOneName", map[string]string{"go.mod": goMod, "a/cart/main.go": server("a"), "b/cart/main.go": server("b")},
			[]string{`b/cart/main.go:\d+: two services are called cart: a/cart .* and b/cart .*; give one another name in bight.yaml`}},
		{"PortClash", with("bight.yaml", "services:\n  hello:\n    ports:\n    - {number: 8080}\n    - {number: 8080, name: admin}\n"),
			[]string{`bight.yaml:5:\d+: port 8080 is listed twice`}},
		{"UnknownField", with("bight.yaml", "services:\n  hello:\n    prots: [{number: 80}]\n"),
			[]string{`^error: bight.yaml:3:5: unknown field prots in services.hello; did you mean ports\?\n$`}},
		{"WrongTypes", with("bight.yaml", "services:\n  hello:\n    replicas: many\n    ports: 80\n"),
			[]string{`bight.yaml:3:\d+: services.hello.replicas must be a whole number, not "many"\n`, `bight.yaml:4:\d+: services.hello.ports must be a list`}},
		{"WrongValues", with("bight.yaml", "services:\n  hello:\n    ports: [{number: 70000}]\n    volumes: [{name: data, path: data}]\n"),
			[]string{`bight.yaml:3:\d+: port 70000 is not between 1 and 65535`, `bight.yaml:4:\d+: path "data" is not absolute`}},
		{"LongName", with("bight.yaml", "services:\n  "+strings.Repeat("very-", 13)+"long: {source: .}\n"),
			[]string{`bight.yaml:2:\d+: the service's name ".*" has 69 characters; Kubernetes allows 63`}},
		{"Question", map[string]string{"go.mod": goMod, "main.go": asker},
			[]string{`error: 1 question to answer`, `main.go:11: \$UPSTREAM_REGION has no value: hello ends without one, .* Give it one in bight.yaml: services: {hello: {env: {UPSTREAM_REGION: VALUE}}}`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t, test.files)
			for _, once := range [][]string{{"--once"}, nil} {
				l.refused(refusal{code: 2, says: test.want}, append([]string{"up", "-n", l.namespace}, once...)...)
			}
		})
	}
}

// asker is a program that ends when a variable is not set.
const asker = `package main

import (
	"log"
	"net/http"
	"os"
)

func main() {
	// Nobody but its author knows this.
	region := os.Getenv("UPSTREAM_REGION")
	if region == "" {
		log.Fatal("UPSTREAM_REGION is not set")
	}
	http.ListenAndServe(":8080", nil)
}
`

func TestBadCodeIsShownAsTheCompilerPrintsIt(t *testing.T) {
	l := newLab(t, map[string]string{"go.mod": goMod, "main.go": strings.Replace(server("first"), "fmt.Println", "fmt.Printlnn", 1)})
	l.refused(refusal{code: 1, says: []string{`hello.*does not compile`, `\./main.go:10:6: undefined: fmt.Printlnn`}}, "up", "--once", "-n", l.namespace)
}

func TestBadProgramThatExitsAtOnce(t *testing.T) {
	l := newLab(t, map[string]string{"go.mod": goMod,
		"main.go": strings.Replace(server("first"), `fmt.Println("starting with", "first")`, `fmt.Println("the configuration is missing"); os.Exit(3)`, 1)})
	began := time.Now()
	_, errs, code := l.bight("up", "--once", "-n", l.namespace)
	if code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	// The patience with a process that does not answer is 30 s.
	if took := time.Since(began); took > 25*time.Second {
		t.Errorf("it took %s to say so", took)
	}
	for _, pattern := range []string{`ends at once with exit code 3`, `the configuration is missing`, `error: hello cannot become ready`} {
		if !regexp.MustCompile(pattern).MatchString(errs) {
			t.Errorf("it does not say %q but:\n%s", pattern, errs)
		}
	}
}

func TestBadServiceThatNeverListens(t *testing.T) {
	l := newLab(t, map[string]string{"go.mod": goMod,
		"main.go": strings.Replace(server("first"), `fmt.Println("starting with", "first")`, `fmt.Println("thinking"); <-make(chan int, len(os.Args)); _ = http.Serve`, 1)})
	l.write("idle.go", "package main\n\nimport \"time\"\n\nfunc init() { go func() { time.Sleep(time.Hour) }() }\n") // so that it is no deadlock
	_, errs, code := l.bight("up", "--once", "-n", l.namespace)
	if code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	for _, pattern := range []string{`hello-\S+ runs for 3\d s but is not ready: .*:8080`, `check that it listens on that port`, `thinking`} {
		if !regexp.MustCompile(pattern).MatchString(errs) {
			t.Errorf("it does not say %q but:\n%s", pattern, errs)
		}
	}
}

func TestBadWayToTheCluster(t *testing.T) {
	expired := expiredCertificate(t)
	tests := []struct {
		name   string
		change func(*api.Cluster, *api.AuthInfo)
		want   refusal
	}{
		{"Unreachable", func(c *api.Cluster, _ *api.AuthInfo) { c.Server = "https://127.0.0.1:1" },
			refusal{code: 1, says: []string{`cluster of context "dev" \(https://127.0.0.1:1\) is not reachable: connection refused; .*--context`}}},
		{"ExpiredCertificate", func(_ *api.Cluster, u *api.AuthInfo) {
			u.ClientCertificateData, u.ClientKeyData = expired.cert, expired.key
		}, refusal{code: 3, says: []string{`the client certificate for the cluster of context "dev" .* expired on \d{4}-\d\d-\d\d \d\d:\d\d: fetch the cluster's kubeconfig again`}}},
		{"WrongToken", func(_ *api.Cluster, u *api.AuthInfo) { *u = api.AuthInfo{Token: "no-more"} },
			refusal{code: 3, says: []string{`does not accept the credentials of the kubeconfig \(.*\): they are wrong or have expired; log in again`}}},
		{"ForeignCertificate", func(c *api.Cluster, _ *api.AuthInfo) { c.CertificateAuthorityData = expired.cert },
			refusal{code: 1, says: []string{`the certificate of the cluster .* is not to be trusted: it is signed by an authority that the kubeconfig does not name`}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := goApp(t)
			file := kubeconfig(t, test.change)
			l.refused(test.want, "up", "--once", "-n", l.namespace, "--kubeconfig", file)
			l.refused(test.want, "status", "-n", l.namespace, "--kubeconfig", file)
			l.refused(test.want, "down", "-n", l.namespace, "--kubeconfig", file)
			l.refused(test.want, "logs", "-n", l.namespace, "--kubeconfig", file)
		})
	}
}

// pair is a certificate and its key, PEM.
type pair struct{ cert, key []byte }

// expiredCertificate makes a client certificate that was valid once.
func expiredCertificate(t *testing.T) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tester", Organization: []string{"system:masters"}},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}),
	}
}

func TestBadContextLooksLikeProduction(t *testing.T) {
	l := goApp(t)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	b, err := os.ReadFile(kubeconfig(t, func(*api.Cluster, *api.AuthInfo) {}))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(b), "dev", "eu-prod-1")), 0o600); err != nil {
		t.Fatal(err)
	}
	want := refusal{code: 3, says: []string{`context "eu-prod-1" \(https://.*\) looks like production: "prod" is in its name, so nothing was done: .*--allow-context eu-prod-1`}}
	for _, command := range [][]string{{"up", "--once"}, {"up"}, {"build"}, {"status"}, {"logs"}, {"down"}} {
		l.refused(want, append(command, "-n", l.namespace, "--kubeconfig", file)...)
	}
	l.once("--kubeconfig", file, "--allow-context", "eu-prod-1")
}

func TestBadRightsAreNamed(t *testing.T) {
	t.Run("None", func(t *testing.T) {
		l := goApp(t)
		l.refused(refusal{code: 3, says: []string{
			`you \(nobody\) may not .*create, patch services`, `create, patch.* deployments.apps`, `leases.coordination.k8s.io`, `create pods/portforward`,
			`in namespace ` + l.namespace + `: ask whoever runs the cluster for the role "edit" in that namespace, or choose a namespace of your own with -n`,
		}}, "up", "--once", "-n", l.namespace, "--kubeconfig", as(t, "nobody"))
	})
	t.Run("ToLookOnly", func(t *testing.T) {
		l := goApp(t)
		bindCluster(t, "looker", "view")
		l.eventually("the role has an effect", func() error {
			_, errs, _ := l.bight("up", "--once", "-n", l.namespace, "--kubeconfig", as(t, "looker"))
			if !strings.Contains(errs, "may not create namespaces") {
				return fmt.Errorf("it says %s", errs)
			}
			return nil
		})
		l.refused(refusal{code: 3, says: []string{
			`you \(looker\) may not create namespaces in the cluster: use a namespace that you may deploy to with -n NAMESPACE, or ask whoever runs the cluster to create "` + l.namespace + `"`,
		}}, "up", "--once", "-n", l.namespace, "--kubeconfig", as(t, "looker"))
	})
	t.Run("Half", func(t *testing.T) {
		l := goApp(t)
		l.makeNamespace()
		l.grant("half",
			rbac.PolicyRule{APIGroups: []string{"", "apps", "coordination.k8s.io"}, Resources: []string{"*"}, Verbs: []string{"get", "list", "watch"}},
			rbac.PolicyRule{APIGroups: []string{"", "coordination.k8s.io"}, Resources: []string{"*"}, Verbs: []string{"*"}})
		errs := l.refused(refusal{code: 3, says: []string{`you \(half\) may not create, patch deployments.apps in namespace ` + l.namespace + `: `}},
			"up", "--once", "-n", l.namespace, "--kubeconfig", as(t, "half"))
		if strings.Contains(errs, "services") {
			t.Errorf("it names rights that are there:\n%s", errs)
		}
	})
	t.Run("EditInOneNamespaceIsEnough", func(t *testing.T) {
		l := goApp(t)
		l.makeNamespace()
		l.bind("editor", "edit")
		l.once("--kubeconfig", as(t, "editor"))
	})
}

func (l *lab) makeNamespace() {
	l.Helper()
	if _, err := client.CoreV1().Namespaces().Create(context(), &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: l.namespace}}, meta.CreateOptions{}); err != nil {
		l.Fatal(err)
	}
}

// grant gives a user rights in the lab's namespace.
func (l *lab) grant(user string, rules ...rbac.PolicyRule) {
	l.Helper()
	if _, err := client.RbacV1().Roles(l.namespace).Create(context(), &rbac.Role{ObjectMeta: meta.ObjectMeta{Name: user}, Rules: rules}, meta.CreateOptions{}); err != nil {
		l.Fatal(err)
	}
	l.bindTo(user, rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "Role", Name: user})
}

// bind gives a user a ClusterRole in the lab's namespace.
func (l *lab) bind(user, role string) {
	l.Helper()
	l.bindTo(user, rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: role})
}

func (l *lab) bindTo(user string, role rbac.RoleRef) {
	l.Helper()
	_, err := client.RbacV1().RoleBindings(l.namespace).Create(context(), &rbac.RoleBinding{
		ObjectMeta: meta.ObjectMeta{Name: user}, RoleRef: role,
		Subjects: []rbac.Subject{{Kind: "User", APIGroup: rbac.GroupName, Name: user}},
	}, meta.CreateOptions{})
	if err != nil {
		l.Fatal(err)
	}
	l.eventually("the role has an effect", func() error {
		out, err := l.kubectl("auth", "can-i", "list", "pods", "-n", l.namespace, "--as", user)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// bindCluster gives a user a ClusterRole everywhere until the test ends.
func bindCluster(t *testing.T, user, role string) {
	t.Helper()
	bindings := client.RbacV1().ClusterRoleBindings()
	name := "test-" + user
	_, err := bindings.Create(context(), &rbac.ClusterRoleBinding{
		ObjectMeta: meta.ObjectMeta{Name: name},
		RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbac.Subject{{Kind: "User", APIGroup: rbac.GroupName, Name: user}},
	}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bindings.Delete(context(), name, meta.DeleteOptions{}) })
}

func TestBadQuotaIsNamed(t *testing.T) {
	l := goApp(t)
	l.makeNamespace()
	_, err := client.CoreV1().ResourceQuotas(l.namespace).Create(context(), &core.ResourceQuota{
		ObjectMeta: meta.ObjectMeta{Name: "team"},
		Spec:       core.ResourceQuotaSpec{Hard: core.ResourceList{core.ResourcePods: resource.MustParse("0")}},
	}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, errs, code := l.bight("up", "--once", "-n", l.namespace)
	if code != 3 || !strings.Contains(errs, "exceeded quota: team") {
		t.Errorf("exit code %d, want 3 and a word about quota team:\n%s", code, errs)
	}
}

func TestBadRegistryIsDown(t *testing.T) {
	l := goApp(t)
	want := refusal{code: 1, says: []string{`registry 127.0.0.1:1: .*connection refused: nothing answers there; .*name another registry`}}
	l.refused(want, "up", "--once", "-n", l.namespace, "--registry", "127.0.0.1:1")
	l.refused(want, "build", "-n", l.namespace, "--registry", "127.0.0.1:1")
}

func TestBadDiskOfThisMachineIsFull(t *testing.T) {
	l := goApp(t)
	cache := t.TempDir()
	if err := syscall.Mount("none", cache, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(cache, 0); err != nil {
			t.Error(err)
		}
	})
	errs := l.refused(refusal{code: 1, env: []string{"XDG_CACHE_HOME=" + cache},
		says: []string{`no space left on device`, `make room`, `XDG_CACHE_HOME`}}, "up", "--once", "-n", l.namespace)
	if strings.Contains(errs, "does not compile") {
		t.Errorf("the code is blamed:\n%s", errs)
	}
}

func TestBadDiskOfThePodIsFull(t *testing.T) {
	l := staticApp(t)
	s := l.up()
	d := l.deployment()
	// The volume of the live files is made smaller than any deploy makes it.
	i := slices.IndexFunc(d.Spec.Template.Spec.Volumes, func(v core.Volume) bool { return v.Name == "bight-live" })
	patch := fmt.Sprintf(`[{"op":"replace","path":"/spec/template/spec/volumes/%d/emptyDir/sizeLimit","value":"4Mi"}]`, i)
	old := l.pods()
	if _, err := client.AppsV1().Deployments(l.namespace).Patch(context(), d.Name, types.JSONPatchType, []byte(patch), meta.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	l.eventually("the pod is another", func() error {
		if now := l.pods(); len(now) != 1 || now[0] == old[0] || l.deployment().Status.ReadyReplicas != 1 {
			return fmt.Errorf("there are %v", now)
		}
		return nil
	})
	service := l.status().Services[0].Name
	s.serves(service, "/", "first")
	l.write("big.bin", strings.Repeat("0123456789abcdef", 1<<20)) // 16 MiB
	l.eventually("the full disk is told", func() error {
		if !strings.Contains(s.output.String(), "no space left in") {
			return fmt.Errorf("it says %s", s.output)
		}
		return nil
	})
	s.serves(service, "/", "first")
	if err := l.inSync(); err == nil {
		t.Error("it claims to be in sync")
	}
	if err := os.Remove(filepath.Join(l.dir, "big.bin")); err != nil {
		t.Fatal(err)
	}
	l.write("index.html", "<h1>second</h1>\n")
	s.serves(service, "/", "second")
	l.eventually("in sync", l.inSync)
}

func TestBadNamesOfFilesAndLinksDoNoHarm(t *testing.T) {
	l := newLab(t, map[string]string{
		"my site/index.html":                             "<h1>first</h1>\n",
		"my site/with space/a b.txt":                     "space\n",
		"my site/new\nline.txt":                          "newline\n",
		"my site/latin\xe9/latin\xe9.txt":                "latin\n",
		"my site/\x1b[31mred.txt":                        "red\n",
		"my site/" + strings.Repeat("long", 60) + ".txt": "long\n",
	})
	for name, to := range map[string]string{"my site/loop": ".", "my site/there": "back", "my site/back": "there", "loop": ".", "my site/out": "/etc"} {
		if err := os.Symlink(to, filepath.Join(l.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"plan"}, {"plan", "-o", "json"}, {"plan", "--manifests"}, {"build"}} {
		out, errs, code := l.bight(args...)
		if code != 0 {
			t.Errorf("bight %s: exit code %d\n%s", strings.Join(args, " "), code, errs)
		}
		if strings.Contains(out+errs, "\x1b") {
			t.Errorf("bight %s writes escape sequences: %q", strings.Join(args, " "), out+errs)
		}
	}
	s := l.up()
	l.eventually("in sync", l.inSync)
	service := l.status().Services[0].Name
	s.serves(service, "/with%20space/a%20b.txt", "space")
	s.serves(service, "/new%0Aline.txt", "newline")
	s.serves(service, "/latin%E9/latin%E9.txt", "latin")
	s.serves(service, "/%1B%5B31mred.txt", "red")
	l.write("my site/new\nline.txt", "another line\n")
	s.serves(service, "/new%0Aline.txt", "another line")
	if strings.Contains(s.output.String(), "\x1b") {
		t.Errorf("bight up writes escape sequences: %q", s.output)
	}
}

func TestBadStartOfAClusterThatRuns(t *testing.T) {
	l := newLab(t, nil)
	before, err := client.CoreV1().Namespaces().Get(context(), "kube-system", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out, errs, code := l.bight("cluster", "start")
	if code != 0 || !strings.Contains(out+errs, "already running") {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	after, err := client.CoreV1().Namespaces().Get(context(), "kube-system", meta.GetOptions{})
	if err != nil || after.UID != before.UID {
		t.Errorf("the cluster is another: %v", err)
	}
}

func TestBadPortIsTaken(t *testing.T) {
	l := goApp(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := fmt.Sprint(taken.Addr().(*net.TCPAddr).Port)
	l.refused(refusal{code: 1, says: []string{`port ` + port + ` is already in use on this machine: stop what listens there, or name another with --port`}},
		"up", "-n", l.namespace, "--port", port)
}

func TestBadFlagsWriteNothing(t *testing.T) {
	l := newLab(t, nil)
	l.refused(refusal{code: 2, says: []string{`nothing to run`}}, "up", "--once", "-n", l.namespace, "--events", "events.json")
	l.refused(refusal{code: 2, says: []string{`nothing to run`}}, "eject", "out")
	l.refused(refusal{code: 2, says: []string{`-n .*: a namespace's name has .* at most 63 characters`}}, "up", "-n", strings.Repeat("n", 64))
}
