// Package pki makes the certificates of one cluster: an authority that lives as
// long as the cluster, and leaf certificates that are made anew at every start.
// The main type is [Authority]. It is safe for concurrent use after Open.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Lifetimes of the certificates.
const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 365 * 24 * time.Hour
)

// Authority signs the certificates of one cluster.
type Authority struct {
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

// Leaf says what one certificate is for.
type Leaf struct {
	User   string   // common name
	Groups []string // organisations
	Hosts  []string // names and addresses; a certificate with hosts is for a server too
}

// Pair is a certificate and its key, PEM encoded.
type Pair struct{ Cert, Key []byte }

// Open reads the authority kept in dir, or makes one there.
func Open(dir string) (*Authority, error) {
	a, err := Load(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return a, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a = &Authority{dir: dir}
	if err := a.create(); err != nil {
		return nil, fmt.Errorf("make the cluster's authority in %s: %w", dir, err)
	}
	return a, nil
}

// Load reads the authority kept in dir. The error is fs.ErrNotExist when there is
// no certificate.
func Load(dir string) (*Authority, error) {
	a := &Authority{dir: dir}
	certPEM, err := os.ReadFile(a.CertFile())
	if err != nil {
		return nil, err
	}
	keyPEM, err := os.ReadFile(a.keyFile())
	if err == nil {
		err = a.parse(certPEM, keyPEM)
	}
	if err != nil {
		// Not wrapped: a key that is missing is not an authority that is.
		return nil, fmt.Errorf("read the cluster's authority in %s: %v; delete the cluster and start it again", dir, err)
	}
	return a, nil
}

// CertFile is the path of the authority's certificate.
func (a *Authority) CertFile() string { return filepath.Join(a.dir, "ca.crt") }

func (a *Authority) keyFile() string { return filepath.Join(a.dir, "ca.key") }

// PEM returns the authority's certificate.
func (a *Authority) PEM() []byte { return a.pem }

// File returns the path of a file beside the authority's own.
func (a *Authority) File(name string) string { return filepath.Join(a.dir, name) }

func (a *Authority) parse(certPEM, keyPEM []byte) error {
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return errors.New("not PEM")
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return err
	}
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	if err != nil {
		return err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return errors.New("the key is not the certificate's")
	}
	a.cert, a.key, a.pem = cert, key, certPEM
	return nil
}

func (a *Authority) create() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := newSerial()
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "bight cluster authority " + serial.Text(36)[:8]},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := a.parse(certPEM, keyPEM); err != nil {
		return err
	}
	if err := os.WriteFile(a.keyFile(), keyPEM, 0o600); err != nil {
		return err
	}
	return os.WriteFile(a.CertFile(), certPEM, 0o600)
}

// Issue makes a certificate.
func (a *Authority) Issue(l Leaf) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return Pair{}, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: l.User, Organization: l.Groups},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(leafLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, host := range l.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	if len(l.Hosts) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return Pair{}, fmt.Errorf("sign the certificate of %s: %w", l.User, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), Key: keyPEM}, nil
}

// IssueFiles makes a certificate and writes it as NAME.crt and NAME.key.
func (a *Authority) IssueFiles(name string, l Leaf) (certFile, keyFile string, err error) {
	pair, err := a.Issue(l)
	if err != nil {
		return "", "", err
	}
	certFile, keyFile = a.File(name+".crt"), a.File(name+".key")
	if err := os.WriteFile(certFile, pair.Cert, 0o600); err != nil {
		return "", "", err
	}
	return certFile, keyFile, os.WriteFile(keyFile, pair.Key, 0o600)
}

// KeyFile returns the path of a private key that lives as long as the cluster
// and signs nothing but service account tokens. It makes the key when it is new.
func (a *Authority) KeyFile(name string) (string, error) {
	file := a.File(name + ".key")
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return "", err
	}
	return file, os.WriteFile(file, keyPEM, 0o600)
}

func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
}
