package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

func open(t *testing.T, dir string) *Authority {
	t.Helper()
	a, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func parse(t *testing.T, certPEM []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(certPEM)
	if block == nil {
		t.Fatal("not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestTheAuthorityIsMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	if _, err := Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before it is made: got %v", err)
	}
	first, second := open(t, dir), open(t, dir)
	if string(first.PEM()) != string(second.PEM()) {
		t.Error("a second authority was made")
	}
	other := open(t, filepath.Join(t.TempDir(), "pki"))
	if parse(t, first.PEM()).Subject.CommonName == parse(t, other.PEM()).Subject.CommonName {
		t.Error("two clusters' authorities have one name")
	}
}

func TestCertificatesAreForWhatTheyAreFor(t *testing.T) {
	a := open(t, t.TempDir())
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.PEM())
	for _, c := range []struct {
		name   string
		leaf   Leaf
		usage  x509.ExtKeyUsage
		host   string
		verify bool
	}{
		{"a user as a client", Leaf{User: "me", Groups: []string{"us"}}, x509.ExtKeyUsageClientAuth, "", true},
		{"a user as a server", Leaf{User: "me"}, x509.ExtKeyUsageServerAuth, "", false},
		{"a server by name", Leaf{User: "s", Hosts: []string{"kubernetes", "10.43.0.1"}}, x509.ExtKeyUsageServerAuth, "kubernetes", true},
		{"a server by address", Leaf{User: "s", Hosts: []string{"kubernetes", "10.43.0.1"}}, x509.ExtKeyUsageServerAuth, "10.43.0.1", true},
		{"a server by another name", Leaf{User: "s", Hosts: []string{"kubernetes"}}, x509.ExtKeyUsageServerAuth, "prod", false},
	} {
		pair, err := a.Issue(c.leaf)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tls.X509KeyPair(pair.Cert, pair.Key); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		cert := parse(t, pair.Cert)
		_, err = cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{c.usage}, DNSName: c.host})
		if (err == nil) != c.verify {
			t.Errorf("%s: got %v, want verified %v", c.name, err, c.verify)
		}
		if cert.Subject.CommonName != c.leaf.User || strings.Join(cert.Subject.Organization, ",") != strings.Join(c.leaf.Groups, ",") {
			t.Errorf("%s: got %s", c.name, cert.Subject)
		}
		if cert.IsCA || time.Until(cert.NotAfter) > leafLife {
			t.Errorf("%s: an authority %v, until %s", c.name, cert.IsCA, cert.NotAfter)
		}
	}
	stranger := open(t, t.TempDir())
	pair, err := stranger.Issue(Leaf{User: "me"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parse(t, pair.Cert).Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("another cluster's certificate is good here")
	}
}

func TestFilesAreTheOwners(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	if _, _, err := a.IssueFiles("server", Leaf{User: "s", Hosts: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.KubeconfigFile("user", "https://10.41.0.11:6443", Leaf{User: "me"}); err != nil {
		t.Fatal(err)
	}
	first, err := a.KeyFile("tokens")
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.KeyFile("tokens"); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(first); err != nil || string(after) != string(before) {
		t.Error("the key that signs tokens was made anew; every token is void")
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 6 {
		t.Fatalf("got %v, %v", files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got %v, %v", f.Name(), info.Mode(), err)
		}
	}
	config, err := clientcmd.BuildConfigFromFlags("", a.File("user.kubeconfig"))
	if err != nil || config.Host != "https://10.41.0.11:6443" || config.Insecure || string(config.CAData) != string(a.PEM()) {
		t.Errorf("got %+v, %v", config, err)
	}
}

func TestADamagedAuthorityIsNotReplaced(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"no key": func(dir string) error { return os.Remove(filepath.Join(dir, "ca.key")) },
		"another's key": func(dir string) error {
			return os.Rename(filepath.Join(dir, "other", "ca.key"), filepath.Join(dir, "ca.key"))
		},
		"half a certificate": func(dir string) error { return os.Truncate(filepath.Join(dir, "ca.crt"), 100) },
		"an empty key":       func(dir string) error { return os.Truncate(filepath.Join(dir, "ca.key"), 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			open(t, dir)
			open(t, filepath.Join(dir, "other"))
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), dir) {
				t.Errorf("got %v", err)
			}
			if after, err := os.ReadFile(filepath.Join(dir, "ca.crt")); err != nil || string(after) != string(before) {
				t.Error("the certificate was replaced")
			}
		})
	}
}
