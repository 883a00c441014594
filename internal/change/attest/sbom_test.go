package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// web is a component whose parts say all that a part can.
var web = Component{Name: "web/assets", Version: "1.0.0", PURL: purl("npm", "web", "1.0.0"), Parts: []Part{
	{Name: "@scope/a+b", Version: "2.0.0", PURL: purl("npm", "@scope/a+b", "2.0.0"), License: "MIT", Source: "https://npm.example/a.tgz"},
	{Name: "y", Version: "3.0.0", PURL: purl("npm", "y", "3.0.0"), License: "(MIT OR Apache-2.0)"},
}}

func TestSBOM(t *testing.T) {
	subject, err := Image("shop/web", "sha256:"+strings.Repeat("ab", 32))
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Open(compiled(t))
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	prog, err := Program("app/cart", exe)
	if err != nil {
		t.Fatal(err)
	}
	want := []Part{
		{Name: "example.org/dep", PURL: "pkg:golang/example.org/dep", Source: "replaced by the directory ./dep"},
		{Name: "std", Version: prog.Parts[1].Version, PURL: "pkg:golang/std@" + prog.Parts[1].Version, License: "BSD-3-Clause"},
	}
	if diff := cmp.Diff(want, prog.Parts); diff != "" || !strings.HasPrefix(prog.PURL, "pkg:golang/example.org/shop") {
		t.Errorf("the program %s: %s", prog.PURL, diff)
	}
	one, err := SBOM(subject, when, web, prog)
	if err != nil {
		t.Fatal(err)
	}
	two, err := SBOM(subject, when, prog, web, prog)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Predicate, two.Predicate) {
		t.Error("the order of components changes the document")
	}
	var doc spdx
	if err := json.Unmarshal(one.Predicate, &doc); err != nil {
		t.Fatal(err)
	}
	checkSPDX(t, doc)
	text := string(one.Predicate)
	for _, want := range []string{`"spdxVersion":"SPDX-2.3"`, `"checksumValue":"abab`, `pkg:npm/%40scope/a%2Bb@2.0.0"`, `"licenseDeclared":"(MIT OR Apache-2.0)"`, `https://npm.example/a.tgz"`, `"created":"2026-05-01T12:00:00Z"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
}

// compiled builds a program of two modules.
func compiled(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string]string{
		"go.mod":     "module example.org/shop\n\ngo 1.26\n\nrequire example.org/dep v0.0.0\n\nreplace example.org/dep => ./dep\n",
		"main.go":    "package main\n\nimport \"example.org/dep\"\n\nfunc main() { dep.Do() }\n",
		"dep/go.mod": "module example.org/dep\n\ngo 1.26\n",
		"dep/dep.go": "package dep\n\nfunc Do() {}\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "build", "-o", "shop", ".")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return filepath.Join(dir, "shop")
}

// checkSPDX checks what SPDX demands: identifiers of few characters, each once, and
// relations only between what is there.
func checkSPDX(t *testing.T, doc spdx) {
	t.Helper()
	ids := map[string]bool{doc.ID: true}
	form := regexp.MustCompile(`^SPDXRef-[A-Za-z0-9.-]+$`)
	for _, p := range doc.Packages {
		if ids[p.ID] || !form.MatchString(p.ID) {
			t.Errorf("identifier %q is there twice or is none", p.ID)
		}
		ids[p.ID] = true
		if p.Name == "" || p.Download == "" || p.Declared == "" {
			t.Errorf("package without what it must have: %+v", p)
		}
	}
	for _, r := range doc.Relationships {
		if !ids[r.Element] || !ids[r.Related] {
			t.Errorf("a relation to nothing: %+v", r)
		}
	}
}

func TestATextIsNoProgram(t *testing.T) {
	if _, err := Program("x", strings.NewReader("no program")); err == nil {
		t.Error("a text is taken for a program")
	}
}

func TestProvenanceHasItsFields(t *testing.T) {
	subject, err := Image("shop/cart", "sha256:00")
	if err != nil {
		t.Fatal(err)
	}
	s := statements(t, subject)[1]
	got, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"shop/cart","digest":{"sha256":"00"}}],` +
		`"predicateType":"https://slsa.dev/provenance/v1","predicate":{"buildDefinition":{"buildType":"https://bight.dev/build/v1",` +
		`"externalParameters":{"service":"cart"},"resolvedDependencies":[` +
		`{"name":"go","uri":"pkg:generic/go@1.26.8"},` +
		`{"name":"source","uri":"git+https://git.example/shop","digest":{"gitCommit":"c0ffee"}}]},` +
		`"runDetails":{"builder":{"id":"https://bight.dev/worker"},"metadata":{"invocationId":"change-1/1","startedOn":"2026-05-01T12:00:00Z"}}}}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	if _, err := Provenance(subject, Build{}); err == nil {
		t.Error("provenance without a builder is made")
	}
	if _, err := Image("x", "latest"); err == nil {
		t.Error("a tag is taken for a digest")
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"keyid":"","sig":"AA=="}]}`))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if payload, err := open(data, []*PublicKey{{key: &key.PublicKey}}); err == nil {
			t.Errorf("opened %q without the key", payload)
		}
	})
}
