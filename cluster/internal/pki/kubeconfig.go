package pki

import (
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// Kubeconfig returns a configuration with one context of the given name: the
// server, its authority and a client certificate for l.
func (a *Authority) Kubeconfig(context, server string, l Leaf) (*api.Config, error) {
	pair, err := a.Issue(l)
	if err != nil {
		return nil, err
	}
	config := api.NewConfig()
	config.Clusters[context] = &api.Cluster{Server: server, CertificateAuthorityData: a.pem}
	config.AuthInfos[context] = &api.AuthInfo{ClientCertificateData: pair.Cert, ClientKeyData: pair.Key}
	config.Contexts[context] = &api.Context{Cluster: context, AuthInfo: context}
	config.CurrentContext = context
	return config, nil
}

// KubeconfigFile writes such a configuration to NAME.kubeconfig, mode 0600.
func (a *Authority) KubeconfigFile(name, server string, l Leaf) (string, error) {
	config, err := a.Kubeconfig("bight", server, l)
	if err != nil {
		return "", err
	}
	file := a.File(name + ".kubeconfig")
	return file, clientcmd.WriteToFile(*config, file)
}
