package kube

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
)

const withVia = `apiVersion: v1
kind: Config
current-context: a
clusters:
- name: ca
  cluster:
    server: "https://127.0.0.1:1"
    insecure-skip-tls-verify: true
    extensions: [{name: bight.dev/pods-via, extension: EXTENSION}]
contexts:
- {name: a, context: {cluster: ca, user: u}}
users:
- {name: u, user: {token: abc}}
`

func TestHowPodsAreReached(t *testing.T) {
	for _, tt := range []struct {
		name, env, extension string
		told                 bool
		wrong                string
	}{
		{name: "nobody says"},
		{name: "directly", env: "direct", told: true},
		{name: "through a proxy", env: "socks5h://127.0.0.1:1080", told: true},
		{name: "with a password", env: "socks5h://me:secret@127.0.0.1:1080", told: true},
		{name: "the kubeconfig says", extension: "{via: direct}", told: true},
		{name: "off", env: "off", extension: "{via: direct}"},
		{name: "off in the kubeconfig", extension: `{via: "off"}`},
		{name: "another way than the kubeconfig's", env: "direct", extension: "{via: nonsense}", told: true},
		{name: "nonsense", env: "vpn", wrong: `BIGHT_PODS_VIA, which says how this machine reaches pods: "vpn": want direct, socks5h://`},
		{name: "another proxy", env: "http://proxy:3128", wrong: "want direct, socks5h://"},
		{name: "names resolved here", env: "socks5://proxy:1080", wrong: "want direct, socks5h://"},
		{name: "no port", env: "socks5h://proxy", wrong: "want direct, socks5h://"},
		{name: "a path", env: "socks5h://proxy:1080/pods", wrong: "want direct, socks5h://"},
		{name: "a user without password", env: "socks5h://me@proxy:1080", wrong: "a user and a password"},
		{name: "no URL", env: "socks5h://secret@\x7f:1", wrong: "want direct, socks5h://"},
		{name: "wrong in the kubeconfig", extension: "{via: socks5h://me:secret@proxy}", wrong: `extension bight.dev/pods-via of cluster "ca" in the kubeconfig: "socks5h://me:xxxxx@proxy": want direct`},
		{name: "no text in the kubeconfig", extension: "{via: {direct: true}}", wrong: "want {via: direct"},
		{name: "empty in the kubeconfig", extension: "{}", wrong: "want direct"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config := withVia
			if tt.extension == "" {
				config = strings.Replace(config, "    extensions: [{name: bight.dev/pods-via, extension: EXTENSION}]\n", "", 1)
			}
			c, err := Load(Options{Kubeconfig: writeFile(t, strings.Replace(config, "EXTENSION", tt.extension, 1)), PodsVia: tt.env})
			var wrong *ConfigError
			switch {
			case tt.wrong != "":
				if !errors.As(err, &wrong) || !strings.Contains(err.Error(), tt.wrong) || strings.Contains(err.Error(), "secret") {
					t.Errorf("got %v, want a ConfigError with %q", err, tt.wrong)
				}
			case err != nil:
				t.Error(err)
			case (c.Pods != nil) != tt.told:
				t.Errorf("this machine may dial pods: %v, want %v", c.Pods != nil, tt.told)
			}
		})
	}
}

func TestPodsAreDialledThroughTheProxy(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	served := make(chan error, 1)
	go func() { served <- socks(ln) }()
	dial, err := parsePodsVia("socks5h://me:secret@" + ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dial(t.Context(), netip.MustParseAddrPort("192.0.2.7:4000"))
	if err != nil {
		t.Fatal(err, <-served)
	}
	defer conn.Close()
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// socks plays a proxy that connects to 192.0.2.7:4000.
func socks(ln net.Listener) error {
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, step := range []struct{ want, answer string }{
		{"\x05\x02\x00\x02", "\x05\x02"},
		{"\x01\x02me\x06secret", "\x01\x00"},
		{"\x05\x01\x00\x01\xc0\x00\x02\x07\x0f\xa0", "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00hello"},
	} {
		got := make([]byte, len(step.want))
		if _, err := io.ReadFull(conn, got); err != nil {
			return err
		}
		if !bytes.Equal(got, []byte(step.want)) {
			return errors.New("the client said " + string(got))
		}
		if _, err := io.WriteString(conn, step.answer); err != nil {
			return err
		}
	}
	return nil
}
