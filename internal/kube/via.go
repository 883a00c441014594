package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"time"

	"golang.org/x/net/proxy"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd/api"
)

// PodsViaExtension is the name of the extension of a kubeconfig's cluster that says how
// this machine reaches addresses of pods.
const PodsViaExtension = "bight.dev/pods-via"

// podsTimeout is how long a pod's address may stay silent.
const podsTimeout = 5 * time.Second

const podsViaForms = "direct, socks5h://USER:PASSWORD@HOST:PORT or off"

// AddressDialer connects to an address of a pod.
type AddressDialer func(ctx context.Context, to netip.AddrPort) (net.Conn, error)

// podsVia decides how addresses of pods are reached: as the user says, else as the
// cluster's entry in the kubeconfig does. Nil is that they are not.
func podsVia(said string, entry *api.Cluster, name string) (AddressDialer, error) {
	if said != "" {
		d, err := parsePodsVia(said)
		if err != nil {
			return nil, &ConfigError{Text: fmt.Sprintf("BIGHT_PODS_VIA, which says how this machine reaches pods: %v", err)}
		}
		return d, nil
	}
	if entry == nil || entry.Extensions[PodsViaExtension] == nil {
		return nil, nil
	}
	d, err := extendedVia(entry.Extensions[PodsViaExtension])
	if err != nil {
		return nil, &ConfigError{Text: fmt.Sprintf("extension %s of cluster %q in the kubeconfig: %v; mend it, or set BIGHT_PODS_VIA=off", PodsViaExtension, name, err)}
	}
	return d, nil
}

// extendedVia reads the extension.
func extendedVia(o runtime.Object) (AddressDialer, error) {
	unknown, ok := o.(*runtime.Unknown)
	if !ok {
		return nil, fmt.Errorf("it is a %T", o)
	}
	var said struct {
		Via string `json:"via"`
	}
	if err := json.Unmarshal(unknown.Raw, &said); err != nil {
		return nil, errors.New("want {via: " + podsViaForms + "}")
	}
	return parsePodsVia(said.Via)
}

// parsePodsVia reads one of podsViaForms. Its errors tell no password.
func parsePodsVia(text string) (AddressDialer, error) {
	d := &net.Dialer{Timeout: podsTimeout}
	switch text {
	case "off":
		return nil, nil
	case "direct":
		return func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", to.String())
		}, nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("want " + podsViaForms)
	}
	_, port, err := net.SplitHostPort(u.Host)
	if u.Scheme != "socks5h" || err != nil || port == "" || u.Hostname() == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q: want %s", u.Redacted(), podsViaForms)
	}
	var auth *proxy.Auth
	if u.User != nil {
		auth = &proxy.Auth{User: u.User.Username()}
		auth.Password, _ = u.User.Password()
		if l, p := len(auth.User), len(auth.Password); l < 1 || l > 255 || p < 1 || p > 255 {
			return nil, fmt.Errorf("%q: a user and a password have 1 to 255 bytes each", u.Redacted())
		}
	}
	through, err := proxy.SOCKS5("tcp", u.Host, auth, d)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", u.Redacted(), err)
	}
	dialer, ok := through.(proxy.ContextDialer)
	if !ok {
		return nil, errors.New("the SOCKS5 client takes no context")
	}
	return func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		return dialer.DialContext(ctx, "tcp", to.String())
	}, nil
}
