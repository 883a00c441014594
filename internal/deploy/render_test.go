package deploy

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	"github.com/bightdev/bight/internal/app"
)

var update = flag.Bool("update", false, "write the golden files")

// shop reads testdata/shop.json.
func shop(t testing.TB) *app.App {
	t.Helper()
	b, err := os.ReadFile("testdata/shop.json")
	if err != nil {
		t.Fatal(err)
	}
	a := &app.App{}
	if err := json.Unmarshal(b, a); err != nil {
		t.Fatal(err)
	}
	return a
}

func sandboxOptions() RenderOptions {
	o := prodOptions()
	o.Environment = "shop-ada"
	o.Live = &LiveOptions{Token: "a-token"}
	return o
}

func prodOptions() RenderOptions {
	o := RenderOptions{Environment: "shop-prod", Images: map[string]string{}, Commands: map[string][]string{}}
	for _, s := range []string{"cart", "frontend", "prices"} {
		o.Images[s] = "registry.example/shop/" + s + "@sha256:" + strings.Repeat("ab", 32)
		o.Commands[s] = []string{"./" + s}
	}
	return o
}

func render(t testing.TB, a *app.App, o RenderOptions) []Object {
	t.Helper()
	objs, err := Render(a, o)
	if err != nil {
		t.Fatal(err)
	}
	return objs
}

func manifests(t testing.TB, objs []Object, secrets bool) string {
	t.Helper()
	b, err := Manifests(objs, secrets)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func deployment(t testing.TB, objs []Object, service string) *appsv1.Deployment {
	t.Helper()
	for _, o := range objs {
		if o.Kind == "Deployment" && o.Name == service {
			d := &appsv1.Deployment{}
			if err := o.Decode(d); err != nil {
				t.Fatal(err)
			}
			return d
		}
	}
	t.Fatalf("no deployment of %s", service)
	return nil
}

func TestRenderGolden(t *testing.T) {
	versioned := prodOptions()
	versioned.Version = "v1.2.3"
	for name, opts := range map[string]RenderOptions{
		"sandbox": sandboxOptions(), "prod": prodOptions(), "prod-version": versioned,
	} {
		t.Run(name, func(t *testing.T) {
			got := manifests(t, render(t, shop(t), opts), true)
			file := filepath.Join("testdata", "render", name+".yaml")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("render differs from %s (-want +got):\n%s", file, d)
			}
		})
	}
}

func TestRenderIsRepeatable(t *testing.T) {
	first := render(t, shop(t), sandboxOptions())
	for range 20 {
		if d := cmp.Diff(first, render(t, shop(t), sandboxOptions())); d != "" {
			t.Fatalf("the same input gave other objects (-first +later):\n%s", d)
		}
	}
}

func TestRenderPassesPodSecurityRestricted(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	for name, opts := range map[string]RenderOptions{"sandbox": sandboxOptions(), "prod": prodOptions()} {
		for _, s := range shop(t).Services {
			d := deployment(t, render(t, shop(t), opts), s.Name)
			for _, res := range evaluator.EvaluatePod(level, &d.Spec.Template.ObjectMeta, &d.Spec.Template.Spec) {
				if !res.Allowed {
					t.Errorf("%s, service %s: %s: %s", name, s.Name, res.ForbiddenReason, res.ForbiddenDetail)
				}
			}
			if c := d.Spec.Template.Spec.Containers[0]; c.SecurityContext.ReadOnlyRootFilesystem == nil || !*c.SecurityContext.ReadOnlyRootFilesystem {
				t.Errorf("%s, service %s: the root file system is writable", name, s.Name)
			}
		}
	}
}

// TestPodsAreReplacedOnlyForAReason changes one thing at a time and looks at
// whose pod template changes.
func TestPodsAreReplacedOnlyForAReason(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*app.App, *RenderOptions)
		want   string // the services whose pods are replaced
	}{
		{"nothing", func(*app.App, *RenderOptions) {}, ""},
		{"lines move", func(a *app.App, _ *RenderOptions) {
			s := a.Service("frontend")
			s.Source.From.Line, s.Links[0].From.Line, s.Ports[0].From.Line = 90, 91, 92
		}, ""},
		{"version", func(_ *app.App, o *RenderOptions) { o.Version = "v2" }, ""},
		{"replicas", func(a *app.App, _ *RenderOptions) { a.Service("frontend").Replicas = 5 }, ""},
		{"image", func(_ *app.App, o *RenderOptions) { o.Images["cart"] += "0" }, "cart"},
		{"plain variable", func(a *app.App, _ *RenderOptions) { a.Service("frontend").Env[0].Value = ":80" }, "frontend"},
		{"secret variable", func(a *app.App, _ *RenderOptions) { a.Service("cart").Env[0].Value = "other" }, "cart"},
		{"link", func(a *app.App, _ *RenderOptions) { a.Service("frontend").Links[0].Value = "cart:1" }, "frontend"},
		{"token", func(_ *app.App, o *RenderOptions) { o.Live.Token = "another" }, "cart frontend prices"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := render(t, shop(t), sandboxOptions())
			a, o := shop(t), sandboxOptions()
			tc.change(a, &o)
			after := render(t, a, o)
			var got []string
			for _, s := range a.Services {
				if cmp.Diff(deployment(t, before, s.Name).Spec.Template, deployment(t, after, s.Name).Spec.Template) != "" {
					got = append(got, s.Name)
				}
			}
			if d := cmp.Diff(tc.want, strings.Join(got, " ")); d != "" {
				t.Errorf("services whose pods are replaced (-want +got):\n%s", d)
			}
		})
	}
}

func TestAgentPortIsNeverTheService(t *testing.T) {
	s := &app.Service{Ports: []app.Port{{Number: 24448}, {Number: 24449}}}
	if got, want := AgentPort(s), 24450; got != want {
		t.Errorf("AgentPort = %d, want %d", got, want)
	}
}

// A DNS server has one number for both, and a door for TCP alone.
func TestUDPHasNoDoor(t *testing.T) {
	a := shop(t)
	a.Services[0].Ports = []app.Port{{Name: "dns", Number: 53, Protocol: app.UDP}, {Name: "dns-tcp", Number: 53, Protocol: app.TCP}}
	objs := render(t, a, sandboxOptions())
	door := DoorPorts(a.Services[0])[53]
	command := strings.Join(deployment(t, objs, "cart").Spec.Template.Spec.Containers[0].Command, " ")
	if want := fmt.Sprintf(" --door %d=53/tcp -- ", door); !strings.Contains(command, want) || strings.Contains(command, "udp") {
		t.Errorf("command %q, want one with %q and no door for UDP", command, want)
	}
	i := slices.IndexFunc(objs, func(o Object) bool { return o.Kind == "Service" && o.Name == "cart" })
	s := &corev1.Service{}
	if err := objs[i].Decode(s); err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, p := range s.Spec.Ports {
		got[p.Name] = p.TargetPort.IntValue()
	}
	if d := cmp.Diff(map[string]int{"dns": 53, "dns-tcp": door}, got); d != "" {
		t.Errorf("target ports (-want +got):\n%s", d)
	}
}

func TestPortValueKeepsTheFormOfTheDefault(t *testing.T) {
	for _, tc := range []struct {
		def, want string
		ok        bool
	}{
		{"", "8080", true},
		{"3000", "8080", true},
		{":3000", ":8080", true},
		{"0.0.0.0:3000", "0.0.0.0:8080", true},
		{"localhost:3000", ":8080", true},
		{"127.0.0.1:3000", ":8080", true},
		{"[::1]:3000", ":8080", true},
		{"tcp://any", "", false},
		{"unix:/run/x", "", false},
	} {
		s := &app.Service{Env: []app.EnvVar{{Name: "ADDR", Default: tc.def}}}
		got, ok := portValue(s, app.Port{Number: 8080, Env: "ADDR"})
		if got != tc.want || ok != tc.ok {
			t.Errorf("portValue with default %q = %q, %v; want %q, %v", tc.def, got, ok, tc.want, tc.ok)
		}
	}
}

func TestArgumentsTheUserWroteWin(t *testing.T) {
	s := &app.Service{
		Args:  []string{"-cart=elsewhere:1", "--verbose"},
		Links: []app.Link{{Flag: "cart", Value: "cart:7070"}, {Flag: "prices", Value: "prices:1"}},
	}
	want := []string{"-cart=elsewhere:1", "--verbose", "--prices=prices:1"}
	if d := cmp.Diff(want, arguments(s)); d != "" {
		t.Errorf("arguments (-want +got):\n%s", d)
	}
}

func TestRenderRefuses(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*app.App, *RenderOptions)
		want   string
	}{
		{"open question", func(a *app.App, _ *RenderOptions) {
			a.Questions = []app.Question{{Text: "What is DSN? Write it in bight.yaml.", From: app.From{File: "a.go", Line: 3}}}
		}, "a.go:3: What is DSN? Write it in bight.yaml."},
		{"namespace", func(_ *app.App, o *RenderOptions) { o.Environment = "A_b" }, `"A_b" is no name for a namespace`},
		{"app name", func(a *app.App, _ *RenderOptions) { a.Name = strings.Repeat("x", 60) }, "is no name for an app"},
		{"service name", func(a *app.App, _ *RenderOptions) { a.Services[0].Name = "1st" }, "service 1st (cmd/cart/main.go:12): its name cannot be a host name"},
		{"record's name", func(a *app.App, _ *RenderOptions) { a.Services[0].Name = "bight-shop" }, "Bight's own record"},
		{"no image", func(_ *app.App, o *RenderOptions) { delete(o.Images, "cart") }, "service cart (cmd/cart/main.go:12): it has no image"},
		{"no command", func(_ *app.App, o *RenderOptions) { delete(o.Commands, "cart") }, "nothing says how to start it"},
		{"port", func(a *app.App, _ *RenderOptions) { a.Services[0].Ports[0].Number = 70000 }, `service cart (cmd/cart/main.go:20): port "grpc" (70000)`},
		{"size", func(a *app.App, _ *RenderOptions) { a.Services[0].Volumes[0].Size = "big" }, `(bight.yaml:9): volume data: size "big" is no quantity`},
		{"path", func(a *app.App, _ *RenderOptions) { a.Services[0].Volumes[0].Path = "data" }, `path "data" is not absolute`},
		{"one claim for two", func(a *app.App, _ *RenderOptions) {
			a.Services[0].Name, a.Services[0].Volumes[0].Name = "shop", "db-data"
			v := a.Services[0].Volumes[0]
			v.Name = "data"
			a.Services[1].Name, a.Services[1].Volumes = "shop-db", []app.Volume{v}
		}, "bight.yaml:9: volume db-data of service shop and volume data of service shop-db would be one, shop-db-data; rename one of them"},
		{"agent port", func(_ *app.App, o *RenderOptions) { o.Live.Port = func(*app.Service) int { return 8080 } }, "the agent's port 8080 is one of its own"},
		{"token", func(_ *app.App, o *RenderOptions) { o.Live.Token = "" }, "have no token"},
		{"variable name", func(a *app.App, _ *RenderOptions) {
			a.Services[0].Env = []app.EnvVar{{Name: "A B", Set: true, From: app.From{File: "x.go", Line: 1}}}
		}, `service cart (x.go:1): variable "A B" cannot be set`},
		{"binary value", func(a *app.App, _ *RenderOptions) { a.Services[0].Env[0].Value = "\xff" }, "is no text"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, o := shop(t), sandboxOptions()
			tc.change(a, &o)
			objs, err := Render(a, o)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Render error = %v, want one with %q", err, tc.want)
			}
			if objs != nil {
				t.Error("Render returned objects besides the error")
			}
		})
	}
}

func TestManifestsHideSecrets(t *testing.T) {
	objs := render(t, shop(t), sandboxOptions())
	got := manifests(t, objs, false)
	for _, secret := range []string{"czNjcmV0", "s3cret", "YS10b2tlbg"} {
		if strings.Contains(got, secret) {
			t.Errorf("the manifests show %q", secret)
		}
	}
	if want := "DB_PASSWORD: (hidden)"; !strings.Contains(got, want) {
		t.Errorf("the manifests lack %q", want)
	}
}

func TestRenderNamespaceEnforcesRestricted(t *testing.T) {
	o, err := RenderNamespace("shop-ada", map[string]string{"bight.dev/owner": "ada"})
	if err != nil {
		t.Fatal(err)
	}
	var ns corev1.Namespace
	if err := o.Decode(&ns); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"pod-security.kubernetes.io/enforce": "restricted", labelManagedBy: "bight", "bight.dev/owner": "ada"}
	if d := cmp.Diff(want, ns.Labels); d != "" {
		t.Errorf("labels (-want +got):\n%s", d)
	}
}

func TestEject(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "k")
	objs := render(t, shop(t), prodOptions())
	got, err := Eject(dir, "shop-prod", objs, false)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"cart.yaml", "frontend.yaml", "kustomization.yaml", "prices.yaml", "secrets/.gitignore", "secrets/cart/DB_PASSWORD"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("files (-want +got):\n%s", d)
	}
	if got, err = Eject(dir, "shop-prod", objs, false); err != nil || len(got) != 0 {
		t.Errorf("a second Eject wrote %v, %v; want nothing", got, err)
	}
	info, err := os.Stat(filepath.Join(dir, "secrets/cart/DB_PASSWORD"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the secret's mode is %v", info.Mode())
	}
}

func TestEjectChecksEverythingFirst(t *testing.T) {
	dir := t.TempDir()
	mine := []byte("mine\n")
	if err := os.WriteFile(filepath.Join(dir, "prices.yaml"), mine, 0o644); err != nil {
		t.Fatal(err)
	}
	objs := render(t, shop(t), prodOptions())
	_, err := Eject(dir, "shop-prod", objs, false)
	if err == nil || !strings.Contains(err.Error(), "prices.yaml") {
		t.Fatalf("Eject = %v, want an error that names prices.yaml", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("%d entries after a refused Eject, want the one that was there", len(entries))
	}
	if _, err := Eject(dir, "shop-prod", objs, true); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "prices.yaml")); err != nil || bytes.Equal(b, mine) {
		t.Errorf("a forced Eject left the file (%v)", err)
	}
}

func TestAgentOf(t *testing.T) {
	for _, tt := range []struct {
		command []string
		want    Agent
	}{
		{[]string{"/bight/agent", "run", "--listen", "127.0.0.1:24448", "--", "./cart"}, Agent{Port: 24448}},
		{
			[]string{"/bight/agent", "run", "--listen", "[::1]:9", "--ready", "tcp:8080", "--door", "24460=8080/http", "--door", "24461=9090/", "--", "./cart", "--door", "1=2/tcp"},
			Agent{Port: 9, Ready: "tcp:8080", Doors: map[int]int{8080: 24460, 9090: 24461}, Protocols: map[int]string{8080: "http", 9090: ""}},
		},
		{[]string{"./cart"}, Agent{}},
		{[]string{"./cart", "--listen"}, Agent{}},
		{[]string{"./cart", "--listen", ":http"}, Agent{}},
	} {
		got, ok := AgentOf(tt.command)
		if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" || ok != (tt.want.Port != 0) {
			t.Errorf("%v: ok %v (-want +got):\n%s", tt.command, ok, diff)
		}
	}
}

func TestAServiceIsFoundBesideWhatIsInjected(t *testing.T) {
	cart := corev1.Container{Name: "cart", Command: []string{"/bight/agent", "run"}, Args: []string{"--listen", "127.0.0.1:24448", "--", "./cart"}}
	proxy := corev1.Container{Name: "linkerd-proxy"}
	unnamed := cart
	unnamed.Name = ""
	for _, tt := range []struct {
		name       string
		containers []corev1.Container
		want       string
		runs       bool // an agent
	}{
		{"alone", []corev1.Container{cart}, "cart", true},
		{"behind a proxy", []corev1.Container{proxy, cart}, "cart", true},
		{"before a proxy", []corev1.Container{cart, proxy}, "cart", true},
		{"by another name", []corev1.Container{unnamed, proxy}, "", true},
		{"not at all", []corev1.Container{proxy}, "linkerd-proxy", false},
	} {
		spec := &corev1.PodSpec{Containers: tt.containers}
		if got := ContainerOf(spec, "cart"); got.Name != tt.want {
			t.Errorf("%s: it is %q, want %q", tt.name, got.Name, tt.want)
		}
		if a, ok := AgentIn(spec, "cart"); ok != tt.runs || ok && a.Port != 24448 {
			t.Errorf("%s: agent %+v, %t", tt.name, a, ok)
		}
	}
	if got := ContainerOf(&corev1.PodSpec{}, "cart"); got != nil {
		t.Errorf("without containers it is %+v", got)
	}
}

func TestGraceLeavesTimeToEnd(t *testing.T) {
	for _, c := range []struct {
		grace        time.Duration
		want, drains int64
	}{{0, 0, 5}, {4 * time.Second, 4, 3}, {time.Minute, 60, 5}} {
		opts := prodOptions()
		opts.Grace = c.grace
		spec := deployment(t, render(t, shop(t), opts), "cart").Spec.Template.Spec
		var got int64
		if g := spec.TerminationGracePeriodSeconds; g != nil {
			got = *g
		}
		if drains := spec.Containers[0].Lifecycle.PreStop.Sleep.Seconds; got != c.want || drains != c.drains {
			t.Errorf("with %s: %d s to end, of which it goes on for %d, want %d and %d", c.grace, got, drains, c.want, c.drains)
		}
	}
}
