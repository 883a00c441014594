package lifecycle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/bightdev/bight/cluster/internal/pki"
	"github.com/bightdev/bight/cluster/internal/spec"
)

// admin is who the kubeconfig's user is.
var admin = pki.Leaf{User: "bight-admin", Groups: []string{"system:masters"}}

// KubeconfigBytes returns a kubeconfig for a cluster that was started once.
func KubeconfigBytes(c *spec.Cluster) ([]byte, error) {
	config, err := access(c)
	if err != nil {
		return nil, err
	}
	return clientcmd.Write(*config)
}

// access makes a certificate for the cluster's administrator. The cluster's own
// authority signs it, so it is worth nothing once the cluster is deleted.
func access(c *spec.Cluster) (*api.Config, error) {
	ca, err := pki.Load(c.PKI())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cluster %s has not been started yet: bight cluster start --name %s", c.Name, c.Name)
	}
	if err != nil {
		return nil, err
	}
	config, err := ca.Kubeconfig(c.Context(), c.APIHostURL(), admin)
	if err != nil || c.PodsVia() == "" {
		return config, err
	}
	via, err := json.Marshal(map[string]string{"via": c.PodsVia()})
	config.Clusters[c.Context()].Extensions = map[string]runtime.Object{
		podsViaExtension: &runtime.Unknown{Raw: via, ContentType: runtime.ContentTypeJSON},
	}
	return config, err
}

// podsViaExtension says to bight how this machine reaches addresses of pods.
const podsViaExtension = "bight.dev/pods-via"

// checkKubeconfig refuses to start a cluster whose context could not be written.
func (m *Manager) checkKubeconfig(c *spec.Cluster) error {
	_, config, err := m.readKubeconfig()
	if err != nil {
		return err
	}
	if there := config.Clusters[c.Context()]; there != nil && !onLoopback(there.Server) {
		return UsageError{fmt.Errorf("the kubeconfig has a context %s already, which is another cluster's (%s): choose another --name, or another file with --kubeconfig", c.Context(), there.Server)}
	}
	return nil
}

// onLoopback reports whether a server is one that an embedded cluster may have
// had.
func onLoopback(server string) bool {
	u, err := url.Parse(server)
	return err == nil && net.ParseIP(u.Hostname()).IsLoopback()
}

// WriteKubeconfig merges the cluster's context into the kubeconfig. It becomes
// the current one only if there is none.
func (m *Manager) WriteKubeconfig(c *spec.Cluster) error {
	mine, err := access(c)
	if err != nil {
		return err
	}
	options, config, err := m.readKubeconfig()
	if err != nil {
		return err
	}
	merge(config, mine, c.Context())
	if err := writeKubeconfig(options, config); err != nil {
		return err
	}
	return protect(options, c.Context())
}

// merge adds the context name of mine to config.
func merge(config, mine *api.Config, name string) {
	config.Clusters[name] = mine.Clusters[name]
	config.AuthInfos[name] = mine.AuthInfos[name]
	// A user may have given the context a namespace, which stays.
	if old := config.Contexts[name]; old == nil || old.Cluster != name || old.AuthInfo != name {
		config.Contexts[name] = mine.Contexts[name]
	}
	if config.CurrentContext == "" {
		config.CurrentContext = name
	}
}

// forgetKubeconfig takes the cluster's context out of the kubeconfig again.
func (m *Manager) forgetKubeconfig(c *spec.Cluster) error {
	ca, err := pki.Load(c.PKI())
	if err != nil {
		return nil // without an authority no context was ever written
	}
	options, config, err := m.readKubeconfig()
	if err != nil {
		return err
	}
	if !forget(config, c.Context(), ca.PEM()) {
		return nil
	}
	return writeKubeconfig(options, config)
}

// forget removes the context name, if it is that of the cluster with this
// authority: another user's cluster may have the same name.
func forget(config *api.Config, name string, authority []byte) bool {
	there := config.Clusters[name]
	if there == nil || !bytes.Equal(there.CertificateAuthorityData, authority) {
		return false
	}
	delete(config.Clusters, name)
	delete(config.AuthInfos, name)
	delete(config.Contexts, name)
	if config.CurrentContext == name {
		config.CurrentContext = ""
	}
	return true
}

func (m *Manager) readKubeconfig() (*clientcmd.PathOptions, *api.Config, error) {
	options := clientcmd.NewDefaultPathOptions()
	if m.Kubeconfig != "" {
		options.LoadingRules.ExplicitPath = m.Kubeconfig
	}
	config, err := options.GetStartingConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("read the kubeconfig %s: %w; mend it, or use another with --kubeconfig", options.GetDefaultFilename(), err)
	}
	return options, config, nil
}

func writeKubeconfig(options *clientcmd.PathOptions, config *api.Config) error {
	if err := clientcmd.ModifyConfig(options, *config, false); err != nil {
		return fmt.Errorf("write the kubeconfig %s: %w", options.GetDefaultFilename(), err)
	}
	return nil
}

// protect makes the file that has the context's private key its owner's alone,
// whoever could read it before.
func protect(options *clientcmd.PathOptions, name string) error {
	for _, file := range options.GetLoadingPrecedence() {
		config, err := clientcmd.LoadFromFile(file)
		if err != nil || config.AuthInfos[name] == nil {
			continue // another file of several
		}
		if err := os.Chmod(file, 0o600); err != nil {
			return fmt.Errorf("protect the private key in the kubeconfig: %w", err)
		}
	}
	return nil
}
