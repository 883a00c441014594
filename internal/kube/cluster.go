package kube

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// Options say which cluster is meant. The zero value is what kubectl would use.
type Options struct {
	Kubeconfig string   // a file; "" for $KUBECONFIG or ~/.kube/config
	Context    string   // "" for the current one; the choice is never written back
	Namespace  string   // "" for the context's
	As         string   // user to impersonate
	AsGroups   []string // groups to impersonate
	UserAgent  string   // "bight" if empty
	// PodsVia is how this machine reaches addresses of pods: direct,
	// socks5h://USER:PASSWORD@HOST:PORT or off; "" for what the kubeconfig says.
	PodsVia string

	// Warn is told each different warning of the API server once, perhaps from
	// several goroutines; nil is told nothing.
	Warn func(text string)
}

// Cluster is one context of a kubeconfig.
type Cluster struct {
	Context   string // its name, "in-cluster" for the one that we run in
	Name      string // of the cluster entry that the context points to
	Namespace string // as configured, "default" if nothing says so
	Server    string // URL of the API server

	// Pods connects to addresses of pods, nil where nobody has said that this machine
	// can: nothing else may try it.
	Pods AddressDialer

	config   *rest.Config
	bufs     *writeBuffers // of port-forwards
	sessions tls.ClientSessionCache
	http     func() (*http.Client, error)
	typed    func() (kubernetes.Interface, error)
	dynamic  func() (dynamic.Interface, error)
	discover func() (discovery.CachedDiscoveryInterface, error)
	mapper   func() (meta.RESTMapper, error)
}

// inCluster is what a pod's own service account is called as a context.
const inCluster = "in-cluster"

// ConfigError says that there is no usable configuration, and what to do.
type ConfigError struct {
	Text string
	None bool // nothing at all is configured
}

func (e *ConfigError) Error() string { return e.Text }

// Load reads the configuration. It does not talk to the cluster.
func Load(o Options) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	rules.Warner = func(error) {} // an absent file of the list is no news
	if o.Kubeconfig != "" {
		if _, err := os.Stat(o.Kubeconfig); err != nil {
			return nil, &ConfigError{Text: fmt.Sprintf("kubeconfig %s cannot be read: %v; name another with --kubeconfig", o.Kubeconfig, err)}
		}
	}
	overrides := &clientcmd.ConfigOverrides{CurrentContext: o.Context}
	overrides.Context.Namespace = o.Namespace
	overrides.AuthInfo.Impersonate = o.As
	overrides.AuthInfo.ImpersonateGroups = o.AsGroups
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	raw, err := loader.RawConfig()
	if err != nil {
		return nil, &ConfigError{Text: fmt.Sprintf("read kubeconfig: %v; mend or remove the file, or name another with --kubeconfig", err)}
	}
	if err := checkContext(raw, o.Context); err != nil {
		return nil, err
	}
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, configError(err, o, raw)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, configError(err, o, raw)
	}
	if o.Warn != nil {
		config.WarningHandler = &warnings{tell: o.Warn, told: map[string]bool{}}
	}
	c := newCluster(config, o.UserAgent)
	c.Namespace = namespace
	if c.Context = o.Context; c.Context == "" {
		c.Context = raw.CurrentContext
	}
	if c.Context == "" {
		c.Context = inCluster
	}
	if entry := raw.Contexts[c.Context]; entry != nil {
		c.Name = entry.Cluster
	}
	if c.Pods, err = podsVia(o.PodsVia, raw.Clusters[c.Name], c.Name); err != nil {
		return nil, err
	}
	return c, nil
}

// Contexts returns the names of the contexts in a kubeconfig, sorted; "" is the
// one that kubectl would use.
func Contexts(kubeconfig string) ([]string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	rules.Warner = func(error) {}
	raw, err := rules.Load()
	if err != nil {
		return nil, &ConfigError{Text: fmt.Sprintf("read kubeconfig: %v; mend or remove the file, or name another with --kubeconfig", err)}
	}
	return slices.Sorted(maps.Keys(raw.Contexts)), nil
}

// New returns the cluster of a configuration that the caller has already, for
// example of one that it started itself.
func New(config *rest.Config, context, namespace string) *Cluster {
	c := newCluster(rest.CopyConfig(config), config.UserAgent)
	c.Context, c.Name, c.Namespace = context, context, namespace
	return c
}

// connectTimeout is how long an address may stay silent before the cluster
// counts as unreachable.
const connectTimeout = 5 * time.Second

// newCluster takes config over. Clients are built when they are asked for and
// share one transport.
func newCluster(config *rest.Config, userAgent string) *Cluster {
	if userAgent == "" {
		userAgent = "bight"
	}
	config.UserAgent = userAgent
	config.QPS, config.Burst = -1, -1 // the API server has its own fairness
	if config.WarningHandler == nil {
		config.WarningHandler = rest.NoWarnings{}
	}
	if config.Dial == nil {
		config.Dial = (&net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}).DialContext
	}
	c := &Cluster{config: config, bufs: new(writeBuffers), sessions: sessionsFor(config), Server: serverURL(config)}
	c.http = sync.OnceValues(func() (*http.Client, error) {
		client, err := rest.HTTPClientFor(config)
		if err != nil {
			return nil, err
		}
		if t, err := utilnet.TLSClientConfig(client.Transport); err == nil && t != nil {
			t.ClientSessionCache = c.sessions
		}
		return client, nil
	})
	c.typed = sync.OnceValues(func() (kubernetes.Interface, error) {
		client, err := c.http()
		if err != nil {
			return nil, err
		}
		proto := rest.CopyConfig(config)
		proto.ContentType = "application/vnd.kubernetes.protobuf"
		proto.AcceptContentTypes = proto.ContentType + ",application/json"
		return kubernetes.NewForConfigAndClient(proto, client)
	})
	c.dynamic = sync.OnceValues(func() (dynamic.Interface, error) {
		client, err := c.http()
		if err != nil {
			return nil, err
		}
		return dynamic.NewForConfigAndClient(config, client)
	})
	c.discover = sync.OnceValues(func() (discovery.CachedDiscoveryInterface, error) {
		client, err := c.http()
		if err != nil {
			return nil, err
		}
		d, err := discovery.NewDiscoveryClientForConfigAndClient(config, client)
		if err != nil {
			return nil, err
		}
		return memory.NewMemCacheClient(d), nil
	})
	c.mapper = sync.OnceValues(func() (meta.RESTMapper, error) {
		d, err := c.discover()
		if err != nil {
			return nil, err
		}
		return newMapper(restmapper.NewDeferredDiscoveryRESTMapper(d)), nil
	})
	return c
}

// sessionsFor returns where TLS sessions with the API server are kept: all
// connections after the first, as each port-forward's, begin without certificates,
// which are most of what a handshake costs on either side. It is nil, and none are
// kept, where the client's certificate may be replaced in the meantime: a session
// stays with the one that it began with.
func sessionsFor(config *rest.Config) tls.ClientSessionCache {
	if config.ExecProvider != nil || config.CertFile != "" {
		return nil
	}
	return tls.NewLRUClientSessionCache(0)
}

// tlsConfig returns the configuration of a connection of its own to the API server,
// nil for the system's.
func (c *Cluster) tlsConfig() (*tls.Config, error) {
	t, err := rest.TLSConfigFor(c.config)
	if err == nil && t != nil {
		t.ClientSessionCache = c.sessions
	}
	return t, err
}

// RESTConfig returns a copy of the configuration, for what is not here.
func (c *Cluster) RESTConfig() *rest.Config { return rest.CopyConfig(c.config) }

// Typed returns the client of the built-in kinds. It speaks protobuf.
func (c *Cluster) Typed() (kubernetes.Interface, error) { return explained(c, c.typed) }

// Dynamic returns the client of any kind. It speaks JSON.
func (c *Cluster) Dynamic() (dynamic.Interface, error) { return explained(c, c.dynamic) }

// Mapper tells kinds from resources. It knows the built-in kinds that Bight
// uses by itself and asks the cluster for others when one is looked up.
func (c *Cluster) Mapper() (meta.RESTMapper, error) { return explained(c, c.mapper) }

// Discovery returns what the cluster says of itself, asked once.
func (c *Cluster) Discovery() (discovery.CachedDiscoveryInterface, error) {
	return explained(c, c.discover)
}

// explained gives a failed construction (an unreadable certificate, a bad proxy
// URL) the words of Explain.
func explained[T any](c *Cluster, get func() (T, error)) (T, error) {
	v, err := get()
	if err != nil {
		err = &ConfigError{Text: fmt.Sprintf("context %q of the kubeconfig cannot be used: %v", c.Context, err)}
	}
	return v, err
}

func serverURL(config *rest.Config) string {
	if u, _, err := rest.DefaultServerUrlFor(config); err == nil {
		return strings.TrimSuffix(u.String(), "/")
	}
	return config.Host
}

const howToGetACluster = "start one with `bight cluster start`, or name a kubeconfig with --kubeconfig"

// checkContext says which contexts there are when the one that is meant is not
// among them.
func checkContext(raw api.Config, want string) error {
	name, how := want, "--context"
	if name == "" {
		name, how = raw.CurrentContext, "current-context"
	}
	if name == "" {
		if len(raw.Contexts) == 0 {
			return nil // perhaps inside a pod
		}
		return &ConfigError{Text: fmt.Sprintf("the kubeconfig has no current context; choose one with --context: %s", names(raw))}
	}
	if raw.Contexts[name] != nil {
		return nil
	}
	if len(raw.Contexts) == 0 {
		return &ConfigError{Text: fmt.Sprintf("context %q (%s) does not exist: the kubeconfig is empty; %s", name, how, howToGetACluster)}
	}
	return &ConfigError{Text: fmt.Sprintf("context %q (%s) does not exist; there are: %s", name, how, names(raw))}
}

func names(raw api.Config) string {
	return strings.Join(slices.Sorted(maps.Keys(raw.Contexts)), ", ")
}

func configError(err error, o Options, raw api.Config) error {
	if clientcmd.IsEmptyConfig(err) || errors.Is(err, rest.ErrNotInCluster) {
		return &ConfigError{Text: "no cluster is configured: " + howToGetACluster, None: true}
	}
	name := o.Context
	if name == "" {
		name = raw.CurrentContext
	}
	return &ConfigError{Text: fmt.Sprintf("context %q of the kubeconfig cannot be used: %v", name, err)}
}
