package attest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// Signer signs with an ECDSA P-256 key.
type Signer struct {
	key *ecdsa.PrivateKey
	id  string
}

// ParseSigner reads a private key from PEM: PKCS #8, ECDSA P-256, not encrypted.
func ParseSigner(data []byte) (*Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("the signing key is no PEM: make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`")
	}
	if block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("the signing key is a %q, want a %q (PKCS #8, not encrypted)", block.Type, "PRIVATE KEY")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the signing key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the signing key is not an ECDSA P-256 one")
	}
	id, err := keyID(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	return &Signer{key, id}, nil
}

// PublicKey is the key that verifies what the signer signs.
func (s *Signer) PublicKey() *PublicKey { return &PublicKey{&s.key.PublicKey, s.id} }

// sign gives the same signature for the same data, by RFC 6979.
func (s *Signer) sign(data []byte) ([]byte, error) {
	sum := sha256.Sum256(data)
	return s.key.Sign(nil, sum[:], crypto.SHA256)
}

// PublicKey verifies signatures.
type PublicKey struct {
	key *ecdsa.PublicKey
	id  string
}

// ParsePublicKey reads a public key from PEM: PKIX, ECDSA P-256.
func ParsePublicKey(data []byte) (*PublicKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("the key that images are verified with is no PEM of a %q", "PUBLIC KEY")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the key that images are verified with: %w", err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the key that images are verified with is not an ECDSA P-256 one")
	}
	id, err := keyID(key)
	if err != nil {
		return nil, err
	}
	return &PublicKey{key, id}, nil
}

// ID is the digest of the key.
func (k *PublicKey) ID() string { return k.id }

// PEM is the key as ParsePublicKey reads it.
func (k *PublicKey) PEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

func (k *PublicKey) verifies(data, signature []byte) bool {
	sum := sha256.Sum256(data)
	return ecdsa.VerifyASN1(k.key, sum[:], signature)
}

func keyID(key *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// envelope is a DSSE envelope.
type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     []byte      `json:"payload"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string `json:"keyid"`
	Sig   []byte `json:"sig"`
}

// preAuth is what a DSSE signature is over.
func preAuth(payloadType string, payload []byte) []byte {
	out := "DSSEv1 " + strconv.Itoa(len(payloadType)) + " " + payloadType + " " + strconv.Itoa(len(payload)) + " "
	return append([]byte(out), payload...)
}

func seal(s *Signer, payload []byte) ([]byte, error) {
	sig, err := s.sign(preAuth(typeInToto, payload))
	if err != nil {
		return nil, fmt.Errorf("sign a statement: %w", err)
	}
	return json.Marshal(envelope{typeInToto, payload, []signature{{s.id, sig}}})
}

// open returns the payload of an envelope that one of the keys has signed.
func open(data []byte, keys []*PublicKey) ([]byte, error) {
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, fmt.Errorf("read its envelope: %w", err)
	}
	if e.PayloadType != typeInToto {
		return nil, fmt.Errorf("its envelope holds a %q, want %q", e.PayloadType, typeInToto)
	}
	signed := preAuth(e.PayloadType, e.Payload)
	for _, sig := range e.Signatures[:min(len(e.Signatures), 16)] {
		if slices.ContainsFunc(keys, func(k *PublicKey) bool { return k.verifies(signed, sig.Sig) }) {
			return e.Payload, nil
		}
	}
	return nil, errors.New("no trusted key has signed it")
}

// simple is the payload of a signature of an image, as cosign writes it.
type simple struct {
	Critical struct {
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			Digest string `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional map[string]string `json:"optional"`
}

const simpleType = "cosign container image signature"

func simplePayload(repository, digest string) ([]byte, error) {
	var s simple
	s.Critical.Identity.Reference = repository
	s.Critical.Image.Digest = digest
	s.Critical.Type = simpleType
	return json.Marshal(s)
}
