package attest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

var when = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// front is a registry behind something that can answer instead of it.
type front struct {
	next  http.Handler
	left  atomic.Int64 // requests until it dies; negative is never
	alter func(path string, body []byte) []byte
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.left.Load() >= 0 && f.left.Add(-1) < 0 {
		f.left.Store(0)
		panic(http.ErrAbortHandler)
	}
	if f.alter == nil || r.Method != http.MethodGet {
		f.next.ServeHTTP(w, r)
		return
	}
	rec := httptest.NewRecorder()
	f.next.ServeHTTP(rec, r)
	for k, v := range rec.Header() {
		if k != "Content-Length" {
			w.Header()[k] = v
		}
	}
	w.WriteHeader(rec.Code)
	w.Write(f.alter(r.URL.Path, rec.Body.Bytes()))
}

// serve starts a registry with or without a list of referrers of its own.
func serve(t *testing.T, referrers bool) (*front, string) {
	t.Helper()
	f := &front{next: registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(referrers))}
	f.left.Store(-1)
	s := httptest.NewUnstartedServer(f)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(s.Close)
	return f, strings.TrimPrefix(s.URL, "http://")
}

// push puts an image into the registry and returns its reference and subject.
func push(t *testing.T, host string) (string, Subject) {
	t.Helper()
	img, err := random.Image(100, 2)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewDigest(host + "/shop/cart@" + sum.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	s, err := Image("shop/cart", sum.String())
	if err != nil {
		t.Fatal(err)
	}
	return ref.String(), s
}

func newKey(t *testing.T) *Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseSigner(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const builder = "https://bight.dev/worker"

func statements(t *testing.T, s Subject) []Statement {
	t.Helper()
	sbom, err := SBOM(s, when, web)
	if err != nil {
		t.Fatal(err)
	}
	prov, err := Provenance(s, Build{
		Builder: builder, Invocation: "change-1/1", Parameters: map[string]string{"service": "cart"}, Started: when,
		Inputs: []Resource{Toolchain("go", "1.26.8"), Commit("https://git.example/shop", "c0ffee")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return []Statement{sbom, prov}
}

func policy(s *Signer) Policy {
	return Policy{Keys: []*PublicKey{s.PublicKey()}, Builders: []string{builder}}
}

func both(t *testing.T, test func(t *testing.T, f *front, host string)) {
	for name, referrers := range map[string]bool{"with referrers": true, "by tag": false} {
		t.Run(name, func(t *testing.T) {
			f, host := serve(t, referrers)
			test(t, f, host)
		})
	}
}

func TestAttachAndVerify(t *testing.T) {
	both(t, func(t *testing.T, _ *front, host string) {
		ref, subject := push(t, host)
		c := &Client{Signer: newKey(t)}
		first, err := c.Attach(t.Context(), ref, statements(t, subject)...)
		if err != nil {
			t.Fatal(err)
		}
		second, err := c.Attach(t.Context(), ref, statements(t, subject)...)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, second); diff != "" || len(first) != 3 {
			t.Errorf("the same input gives other artifacts: %s", diff)
		}
		d, err := name.NewDigest(ref)
		if err != nil {
			t.Fatal(err)
		}
		index, err := remote.Referrers(d)
		if err != nil {
			t.Fatal(err)
		}
		if list, err := index.IndexManifest(); err != nil || len(list.Manifests) != 3 {
			t.Errorf("listed are %v (%v), want 3", list, err)
		}
		p := policy(c.Signer)
		p.Commit = "c0ffee"
		got, err := c.Verify(t.Context(), ref, p)
		if err != nil {
			t.Fatal(err)
		}
		if got.Builder != builder || got.SBOM.PredicateType != PredicateSBOM || !strings.HasSuffix(ref, got.Digest) {
			t.Errorf("got %+v", got)
		}
	})
}

func TestVerifySaysWhatIsMissing(t *testing.T) {
	both(t, func(t *testing.T, _ *front, host string) {
		signer, other := newKey(t), newKey(t)
		for _, c := range []struct {
			name   string
			attach func(ref string, s Subject) error
			policy func(p *Policy)
			want   []string
		}{
			{"nothing is attached", nil, nil, []string{"no signature", "no provenance", "no SBOM"}},
			{"nothing is signed", func(ref string, s Subject) error {
				_, err := (&Client{}).Attach(t.Context(), ref, statements(t, s)...)
				return err
			}, nil, []string{"no signature", "no provenance that counts (there is one that is not signed)", "no SBOM that counts (there is one that is not signed)"}},
			{"signed by another key", func(ref string, s Subject) error {
				_, err := (&Client{Signer: other}).Attach(t.Context(), ref, statements(t, s)...)
				return err
			}, nil, []string{
				"no signature that counts (there is one by a key that is not trusted)",
				"no provenance that counts (there is one, and no trusted key has signed it)", "no SBOM that counts (there is one, and no trusted key has signed it)",
			}},
			{"no SBOM", func(ref string, s Subject) error {
				_, err := (&Client{Signer: signer}).Attach(t.Context(), ref, statements(t, s)[1])
				return err
			}, nil, []string{"no SBOM"}},
			{"another builder", func(ref string, s Subject) error {
				_, err := (&Client{Signer: signer}).Attach(t.Context(), ref, statements(t, s)...)
				return err
			}, func(p *Policy) { p.Builders = []string{"x"} }, []string{`no provenance that counts (there is one by builder "https://bight.dev/worker", the policy has ["x"])`}},
			{"another commit", func(ref string, s Subject) error {
				_, err := (&Client{Signer: signer}).Attach(t.Context(), ref, statements(t, s)...)
				return err
			}, func(p *Policy) { p.Commit = "beef" }, []string{"no provenance that counts (there is one of another commit than beef)"}},
		} {
			ref, subject := push(t, host)
			if c.attach != nil {
				if err := c.attach(ref, subject); err != nil {
					t.Fatal(err)
				}
			}
			p := policy(signer)
			if c.policy != nil {
				c.policy(&p)
			}
			_, err := (&Client{}).Verify(t.Context(), ref, p)
			var no *Rejection
			if !errors.As(err, &no) {
				t.Errorf("%s: got %v", c.name, err)
				continue
			}
			for i := range c.want {
				c.want[i] = "it has " + c.want[i]
			}
			if diff := cmp.Diff(c.want, no.Missing); diff != "" {
				t.Errorf("%s: %s", c.name, diff)
			}
		}
	})
}

// What was signed for one image does not count for another one.
func TestAStatementOfAnotherImageDoesNotCount(t *testing.T) {
	_, host := serve(t, true)
	signer := newKey(t)
	good, subject := push(t, host)
	c := &Client{Signer: signer}
	if _, err := c.Attach(t.Context(), good, statements(t, subject)...); err != nil {
		t.Fatal(err)
	}
	bad, _ := push(t, host)
	if _, err := c.Attach(t.Context(), bad, statements(t, subject)...); err == nil {
		t.Error("a statement about another image is attached")
	}
	moveReferrers(t, good, bad)
	_, err := c.Verify(t.Context(), bad, policy(signer))
	var no *Rejection
	if !errors.As(err, &no) || !strings.Contains(err.Error(), "about another image") || !strings.Contains(err.Error(), "of another image") {
		t.Errorf("got %v", err)
	}
}

// moveReferrers attaches the very artifacts of one image to another.
func moveReferrers(t *testing.T, from, to string) {
	t.Helper()
	source, err := name.NewDigest(from)
	if err != nil {
		t.Fatal(err)
	}
	target, err := name.NewDigest(to)
	if err != nil {
		t.Fatal(err)
	}
	subject, err := remote.Head(target)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Referrers(source)
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list.Manifests {
		got, err := remote.Get(source.Context().Digest(d.Digest.String()))
		if err != nil {
			t.Fatal(err)
		}
		var m v1.Manifest
		if err := json.Unmarshal(got.Manifest, &m); err != nil {
			t.Fatal(err)
		}
		m.Subject = subject
		raw, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		sum, _, err := v1.SHA256(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Put(source.Context().Digest(sum.String()), &artifact{manifest: raw}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTamperedContentIsNoticed(t *testing.T) {
	both(t, func(t *testing.T, f *front, host string) {
		ref, subject := push(t, host)
		c := &Client{Signer: newKey(t)}
		if _, err := c.Attach(t.Context(), ref, statements(t, subject)...); err != nil {
			t.Fatal(err)
		}
		for what, alter := range map[string]func(string, []byte) []byte{
			"blobs": func(path string, b []byte) []byte {
				if strings.Contains(path, "/blobs/") {
					b = bytes.Replace(b, []byte("a"), []byte("b"), 1)
				}
				return b
			},
			"manifests": func(path string, b []byte) []byte {
				if strings.Contains(path, "/manifests/sha256:") {
					b = bytes.Replace(b, []byte("application/vnd"), []byte("application/vmd"), 1)
				}
				return b
			},
			"everything is cut": func(path string, b []byte) []byte { return b[:len(b)/2] },
		} {
			f.alter = alter
			if got, err := c.Verify(t.Context(), ref, policy(c.Signer)); err == nil {
				t.Errorf("%s: verified as %+v", what, got)
			}
			f.alter = nil
		}
		if _, err := c.Verify(t.Context(), ref, policy(c.Signer)); err != nil {
			t.Error(err)
		}
	})
}

func TestARegistryThatDiesInTheMiddle(t *testing.T) {
	both(t, func(t *testing.T, f *front, host string) {
		signer := newKey(t)
		c := &Client{Signer: signer, Transport: &http.Transport{DisableKeepAlives: true}, pause: time.Millisecond}
		failed := 0
		for n := int64(0); n < 200; n++ {
			ref, subject := push(t, host)
			f.left.Store(n)
			_, err := c.Attach(t.Context(), ref, statements(t, subject)...)
			f.left.Store(-1)
			if err == nil {
				if _, err := c.Verify(t.Context(), ref, policy(signer)); err != nil {
					t.Errorf("after %d requests: attached, and %v", n, err)
				}
				break
			}
			failed++
			if _, err := c.Attach(t.Context(), ref, statements(t, subject)...); err != nil {
				t.Fatalf("after %d requests: again: %v", n, err)
			}
			if _, err := c.Verify(t.Context(), ref, policy(signer)); err != nil {
				t.Errorf("after %d requests: %v", n, err)
			}
			f.left.Store(n % 5)
			var no *Rejection
			if _, err := c.Verify(t.Context(), ref, policy(signer)); err == nil || errors.As(err, &no) {
				t.Errorf("a dead registry is taken for a missing signature: %v", err)
			}
			f.left.Store(-1)
		}
		if failed < 5 {
			t.Errorf("only %d deaths were tried", failed)
		}
	})
}

func TestSeveralAttachAtOnce(t *testing.T) {
	both(t, func(t *testing.T, _ *front, host string) {
		ref, subject := push(t, host)
		all := statements(t, subject)
		signer := newKey(t)
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				c := &Client{Signer: signer}
				if i%2 == 0 {
					c.Signer = nil
				}
				if _, err := c.Attach(t.Context(), ref, all[i/2]); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if _, err := (&Client{}).Verify(t.Context(), ref, policy(signer)); err != nil {
			t.Error(err)
		}
	})
}

func TestVerifyNeedsADigestAndAPolicy(t *testing.T) {
	signer := newKey(t)
	if _, err := (&Client{}).Verify(t.Context(), "localhost:1/a:latest", policy(signer)); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("a tag: %v", err)
	}
	ref := "localhost:1/a@sha256:" + strings.Repeat("0", 64)
	for _, p := range []Policy{{}, {Keys: []*PublicKey{signer.PublicKey()}}, {Builders: []string{"x"}}} {
		if _, err := (&Client{}).Verify(t.Context(), ref, p); err == nil || !strings.Contains(err.Error(), "policy") {
			t.Errorf("%+v: %v", p, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (&Client{}).Verify(ctx, ref, policy(signer)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestKeysThatWillNotDo(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	wrongKind, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for what, key := range map[string]any{"another curve": p384, "RSA": wrongKind} {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseSigner(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	for _, bad := range []string{"", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"} {
		if _, err := ParseSigner([]byte(bad)); err == nil {
			t.Errorf("%q is taken for a signing key", bad)
		}
		if _, err := ParsePublicKey([]byte(bad)); err == nil {
			t.Errorf("%q is taken for a public key", bad)
		}
	}
	s := newKey(t)
	data, err := s.PublicKey().PEM()
	if err != nil {
		t.Fatal(err)
	}
	if k, err := ParsePublicKey(data); err != nil || k.ID() != s.PublicKey().ID() {
		t.Errorf("got %v %v", k, err)
	}
}
