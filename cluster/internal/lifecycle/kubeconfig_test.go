package lifecycle

import (
	"os"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/bightdev/bight/cluster/internal/pki"
	"github.com/bightdev/bight/cluster/internal/spec"
)

// described returns a cluster with an authority.
func described(t *testing.T, m *Manager, name string) *spec.Cluster {
	t.Helper()
	c, err := m.describe(Options{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Open(c.PKI()); err != nil {
		t.Fatal(err)
	}
	return c
}

func load(t *testing.T, m *Manager) *api.Config {
	t.Helper()
	config, err := clientcmd.LoadFromFile(m.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// mine writes a kubeconfig with another context, as a user may have.
func mine(t *testing.T, m *Manager) {
	t.Helper()
	config := api.NewConfig()
	config.Clusters["work"] = &api.Cluster{Server: "https://work.example:6443"}
	config.AuthInfos["me"] = &api.AuthInfo{Token: "secret"}
	config.Contexts["work"] = &api.Context{Cluster: "work", AuthInfo: "me", Namespace: "team"}
	config.CurrentContext = "work"
	if err := clientcmd.WriteToFile(*config, m.Kubeconfig); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(m.Kubeconfig, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestTheKubeconfigKeepsWhatItHad(t *testing.T) {
	m := manager(t)
	mine(t, m)
	c := described(t, m, "dev")
	if err := m.WriteKubeconfig(c); err != nil {
		t.Fatal(err)
	}
	got := load(t, m)
	if got.CurrentContext != "work" || got.Contexts["work"].Namespace != "team" || got.AuthInfos["me"].Token != "secret" {
		t.Errorf("got %+v", got)
	}
	if got.Clusters["bight-dev"].Server != c.APIHostURL() || got.Clusters["bight-dev"].InsecureSkipTLSVerify {
		t.Errorf("got %+v", got.Clusters["bight-dev"])
	}
	if info, err := os.Stat(m.Kubeconfig); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v; it holds a private key now", info.Mode(), err)
	}

	got.Contexts["bight-dev"].Namespace = "mine"
	if err := clientcmd.WriteToFile(*got, m.Kubeconfig); err != nil {
		t.Fatal(err)
	}
	if err := m.WriteKubeconfig(c); err != nil {
		t.Fatal(err)
	}
	if got := load(t, m); got.Contexts["bight-dev"].Namespace != "mine" {
		t.Error("the namespace that the user chose is lost")
	}

	if err := m.forgetKubeconfig(c); err != nil {
		t.Fatal(err)
	}
	got = load(t, m)
	if got.CurrentContext != "work" || len(got.Contexts) != 1 || len(got.Clusters) != 1 || len(got.AuthInfos) != 1 {
		t.Errorf("after it was forgotten: %+v", got)
	}
}

func TestANewKubeconfigHasTheContextAsItsCurrentOne(t *testing.T) {
	m := manager(t)
	c := described(t, m, "bight")
	if err := m.WriteKubeconfig(c); err != nil {
		t.Fatal(err)
	}
	if got := load(t, m); got.CurrentContext != "bight" {
		t.Errorf("got %q", got.CurrentContext)
	}
	if info, err := os.Stat(m.Kubeconfig); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", info.Mode(), err)
	}
	if err := m.forgetKubeconfig(c); err != nil {
		t.Fatal(err)
	}
	if got := load(t, m); got.CurrentContext != "" || len(got.Contexts) != 0 {
		t.Errorf("after it was forgotten: %+v", got)
	}
}

func TestAnotherClustersContextIsLeftAlone(t *testing.T) {
	m := manager(t)
	c := described(t, m, "dev")
	config := api.NewConfig()
	config.Clusters["bight-dev"] = &api.Cluster{Server: "https://prod.example"}
	config.Contexts["bight-dev"] = &api.Context{Cluster: "bight-dev"}
	if err := clientcmd.WriteToFile(*config, m.Kubeconfig); err != nil {
		t.Fatal(err)
	}
	if err := m.checkKubeconfig(c); ExitCode(err) != 2 || !strings.Contains(err.Error(), "https://prod.example") {
		t.Errorf("got %v", err)
	}
	if err := m.forgetKubeconfig(c); err != nil {
		t.Fatal(err)
	}
	if got := load(t, m); got.Contexts["bight-dev"] == nil {
		t.Error("another cluster's context was removed")
	}

	other := manager(t) // another user's cluster of the same name, in the same file
	other.Kubeconfig = m.Kubeconfig
	if err := os.Remove(m.Kubeconfig); err != nil {
		t.Fatal(err)
	}
	if err := other.WriteKubeconfig(described(t, other, "dev")); err != nil {
		t.Fatal(err)
	}
	if err := m.forgetKubeconfig(c); err != nil {
		t.Fatal(err)
	}
	if got := load(t, m); got.Contexts["bight-dev"] == nil {
		t.Error("another user's context was removed")
	}
}

func TestADamagedKubeconfigIsNamed(t *testing.T) {
	m := manager(t)
	if err := os.WriteFile(m.Kubeconfig, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := m.checkKubeconfig(&spec.Cluster{Name: "dev"})
	if err == nil || !strings.Contains(err.Error(), m.Kubeconfig) {
		t.Errorf("got %v", err)
	}
}

func TestAKubeconfigOfAClusterThatWasNeverStarted(t *testing.T) {
	m := manager(t)
	c, err := m.describe(Options{Name: "dev"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := KubeconfigBytes(c); err == nil || !strings.Contains(err.Error(), "bight cluster start --name dev") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(c.PKI()); err == nil {
		t.Error("an authority was made")
	}
}

func TestTheKubeconfigSaysHowPodsAreReached(t *testing.T) {
	m := manager(t)
	c := described(t, m, "dev")
	if err := m.WriteKubeconfig(c); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(m.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(file), "via: "+c.PodsVia()) || !strings.Contains(string(file), "name: bight.dev/pods-via") {
		t.Errorf("%s is not in\n%s", c.PodsVia(), file)
	}
	c.PodsHostPort = 0 // as an older release made it, whose supervisor runs
	if err := m.WriteKubeconfig(c); err != nil {
		t.Fatal(err)
	}
	if got := load(t, m).Clusters["bight-dev"].Extensions; len(got) != 0 {
		t.Errorf("got %v of a cluster that has no such way", got)
	}
}
