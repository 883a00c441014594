//go:build gateway

package conformance

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/go-logr/logr"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/apis/v1beta1"
	official "sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/config"
	utils "sigs.k8s.io/gateway-api/conformance/utils/kubernetes"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
	"sigs.k8s.io/yaml"

	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/test/gateway/place"
)

// judged are the tests that are run, in the order of the table.
var judged = []string{
	"HTTPRouteWeight", "HTTPRouteHeaderMatching", "HTTPRouteMethodMatching", "HTTPRouteQueryParamMatching",
	"HTTPRouteExactPathMatching", "HTTPRoutePathMatchOrder", "HTTPRouteMatching", "HTTPRouteMatchingAcrossRoutes",
	"HTTPRouteRequestMirror", "HTTPRouteRequestMultipleMirrors", "HTTPRouteRequestPercentageMirror",
	"GRPCRouteWeight", "GRPCRouteHeaderMatching", "GRPCExactMethodMatching",
}

// table says what has become of each test, by implementation. Tests run one after the
// other.
var table = map[string]map[string]string{"doors": {}, "traefik": {}}

func TestMain(m *testing.M) {
	log.SetLogger(logr.Discard())
	code := m.Run()
	fmt.Printf("\n%-36s %-8s %-8s\n", "conformance test", "doors", "traefik")
	for _, name := range judged {
		fmt.Printf("%-36s %-8s %-8s\n", name, table["doors"][name], table["traefik"][name])
	}
	fmt.Printf("(- is what an implementation does not claim to do)\n\n")
	os.Exit(code)
}

func TestDoors(t *testing.T) {
	c := connect(t)
	// All of it: there is no feature to be left out.
	c.judge("doors", func(suite.ConformanceTest) bool { return true })
}

func TestTraefik(t *testing.T) {
	c := connect(t)
	class := &gatewayv1.GatewayClass{}
	if err := c.client.Get(t.Context(), client.ObjectKey{Name: "traefik"}, class); err != nil {
		t.Fatal(err)
	}
	c.judge("traefik", func(test suite.ConformanceTest) bool {
		for _, f := range test.Features {
			if !slices.ContainsFunc(class.Status.SupportedFeatures, func(s gatewayv1.SupportedFeature) bool { return string(s.Name) == string(f) }) {
				return false
			}
		}
		return true
	})
}

// court is a cluster, and what is needed to judge implementations on it.
type court struct {
	*testing.T
	cluster *kube.Cluster
	client  client.Client
	options client.Options
	typed   kubernetes.Interface
	echo    string // the image of the backends
}

func connect(t *testing.T) *court {
	t.Helper()
	kubeconfig, programs := os.Getenv("BIGHT_TEST_KUBECONFIG"), os.Getenv("BIGHT_GATEWAY_BIN")
	if kubeconfig == "" || programs == "" {
		t.Fatal("these tests need a cluster with the implementations, and the backends' program: run make test-gateway")
	}
	cluster, err := kube.Load(kube.Options{Kubeconfig: kubeconfig, UserAgent: "bight-test-gateway"})
	if err != nil {
		t.Fatal(err)
	}
	c := &court{T: t, cluster: cluster}
	scheme := clientscheme.Scheme
	for _, add := range []func() error{
		func() error { return gatewayv1.Install(scheme) }, func() error { return v1beta1.Install(scheme) },
		func() error { return apiextensionsv1.AddToScheme(scheme) },
	} {
		if err := add(); err != nil {
			t.Fatal(err)
		}
	}
	c.options = client.Options{Scheme: scheme}
	if c.client, err = client.New(cluster.RESTConfig(), c.options); err != nil {
		t.Fatal(err)
	}
	if c.typed, err = cluster.Typed(); err != nil {
		t.Fatal(err)
	}
	p := &place.Place{Cluster: cluster, Cache: t.TempDir(), Say: func(text string) { t.Log(text) }}
	if c.echo, err = p.Push(t.Context(), "echo-basic", filepath.Join(programs, "echo-basic")); err != nil {
		t.Fatal(err)
	}
	return c
}

// judge runs the tests on an implementation: its class, namespace and pod have one name.
func (c *court) judge(name string, claims func(suite.ConformanceTest) bool) {
	c.Helper()
	var all []suite.ConformanceTest
	supported := []features.FeatureName{}
	for _, short := range judged {
		i := slices.IndexFunc(tests.ConformanceTests, func(t suite.ConformanceTest) bool { return t.ShortName == short })
		if i < 0 {
			c.Fatalf("there is no conformance test %s", short)
		}
		table[name][short] = "-"
		if test := tests.ConformanceTests[i]; claims(test) {
			table[name][short] = "not run"
			all = append(all, test)
			supported = append(supported, test.Features...)
		}
	}
	pod := c.podOf(name)
	defer pod.close()
	limits := config.DefaultTimeoutConfig()
	limits.NamespacesMustBeReady = 3 * time.Minute
	files := c.manifests()
	s, err := suite.NewConformanceTestSuite(suite.ConformanceOptions{
		ConfigurableOptions: suite.ConfigurableOptions{
			GatewayClassName: name, CleanupTestResources: true, SupportedFeatures: supported, TimeoutConfig: limits,
		},
		Client: c.client, ClientOptions: c.options, Clientset: c.typed, RestConfig: c.cluster.RESTConfig(),
		RoundTripper: pod.roundTripper(limits), GRPCClient: pod, ManifestFS: []fs.FS{files},
		Hook: func(t *testing.T, test suite.ConformanceTest, _ *suite.ConformanceTestSuite) {
			table[name][test.ShortName] = "passed"
			if t.Failed() {
				table[name][test.ShortName] = "FAILED"
			} else if t.Skipped() {
				table[name][test.ShortName] = "skipped"
				t.Errorf("%s was skipped", test.ShortName)
			}
		},
	})
	if err != nil {
		c.Fatal(err)
	}
	// What Setup would do, without what is about TLS and other namespaces.
	s.ControllerName = utils.GWCMustHaveAcceptedConditionTrue(c.T, c.client, s.TimeoutConfig, name)
	s.Applier.ManifestFS, s.Applier.GatewayClass, s.Applier.ControllerName = s.ManifestFS, name, s.ControllerName
	s.Applier.MustApplyWithCleanup(c.T, c.client, s.TimeoutConfig, s.BaseManifests, false)
	defer c.dropGateways()
	utils.NamespacesMustBeReady(c.T, c.client, s.TimeoutConfig, []string{suite.InfrastructureNamespace})
	if err := s.Run(c.T, all); err != nil {
		c.Error(err)
	}
}

// dropGateways removes the Gateways of one implementation before those of the next come.
func (c *court) dropGateways() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := c.client.DeleteAllOf(ctx, &gatewayv1.Gateway{}, client.InNamespace(suite.InfrastructureNamespace))
	if err != nil && !apierrors.IsNotFound(err) {
		c.Error(err)
	}
}

const base = "base/manifests.yaml"

var image = regexp.MustCompile(`image: \S*/echo-basic:\S+`)

// manifests are the official ones, with what of the base is needed here, and the
// backends' program in an image that the cluster has.
func (c *court) manifests() fs.FS {
	all := fstest.MapFS{}
	err := fs.WalkDir(&official.Manifests, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := fs.ReadFile(&official.Manifests, path)
		if err != nil {
			return err
		}
		all[path] = &fstest.MapFile{Data: image.ReplaceAll(b, []byte("image: "+c.echo))}
		return nil
	})
	if err != nil {
		c.Fatal(err)
	}
	var kept []string
	for document := range strings.SplitSeq(string(all[base].Data), "\n---\n") {
		var o struct {
			Kind     string
			Metadata metav1.ObjectMeta
		}
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			c.Fatal(err)
		}
		if needed(o.Kind, o.Metadata.Namespace, o.Metadata.Name) {
			kept = append(kept, document)
		}
	}
	all[base].Data = []byte(strings.Join(kept, "\n---\n"))
	return all
}

// needed says whether the tests need an object of the base: one namespace with one
// Gateway without TLS, and the backends of HTTP and gRPC.
func needed(kind, namespace, name string) bool {
	switch kind {
	case "Namespace":
		return name == suite.InfrastructureNamespace
	case "Gateway":
		return namespace == suite.InfrastructureNamespace && name == "same-namespace"
	case "Service", "Deployment":
		return namespace == suite.InfrastructureNamespace && strings.Contains(name, "infra-backend-v")
	}
	return false
}
