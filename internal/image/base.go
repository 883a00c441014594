package image

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"golang.org/x/crypto/x509roots/fallback/bundle"

	"github.com/bightdev/bight/internal/tree"
)

// The base is what a static program may expect of a system and nothing else: it
// has neither a shell nor a libc.

const passwd = `root:x:0:0:root:/root:/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin
`

const group = `root:x:0:
nobody:x:65534:
nonroot:x:65532:
`

// nsswitch makes programs look into /etc/hosts before they ask DNS.
const nsswitch = "hosts: files dns\n"

// packBase packs the base. zones is the path of the Go toolchain's
// lib/time/zoneinfo.zip; "" leaves time zones out. It returns a key that stands
// for the content.
func packBase(zones string) (*archive, tree.Hash, error) {
	files := map[string][]byte{
		"etc/passwd":                        []byte(passwd),
		"etc/group":                         []byte(group),
		"etc/nsswitch.conf":                 []byte(nsswitch),
		"etc/ssl/certs/ca-certificates.crt": certificates(),
	}
	if err := addZones(files, zones); err != nil {
		return nil, tree.Hash{}, err
	}
	dirs := []struct {
		name  string
		mode  int64
		owner int
	}{
		{"etc", 0o755, 0}, {"etc/ssl", 0o755, 0}, {"etc/ssl/certs", 0o755, 0},
		{"home", 0o755, 0}, {"home/nonroot", 0o700, User}, {"root", 0o700, 0},
		{"tmp", 0o1777, 0}, {"usr", 0o755, 0}, {"usr/share", 0o755, 0}, {"usr/share/zoneinfo", 0o755, 0},
		{"var", 0o755, 0}, {"var/tmp", 0o1777, 0},
	}
	a := &archive{}
	made := map[string]bool{}
	for _, d := range dirs {
		if err := a.dir(d.name, d.mode, d.owner); err != nil {
			return nil, tree.Hash{}, err
		}
		made[d.name] = true
	}
	for _, name := range sortedKeys(files) {
		if err := a.parents(made, "", path.Dir(name), 0); err != nil {
			return nil, tree.Hash{}, err
		}
		if err := a.file(name, 0o644, 0, part{bytes: files[name], size: int64(len(files[name]))}); err != nil {
			return nil, tree.Hash{}, err
		}
	}
	a.end()
	h := sha256.New()
	for _, p := range a.parts {
		h.Write(p.bytes)
	}
	return a, tree.Hash(h.Sum(nil)), nil
}

func sortedKeys(m map[string][]byte) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// certificates returns Mozilla's root certificates as one PEM file. Roots that
// are only trusted under a condition are left out: the file can't express one.
func certificates() []byte {
	var b bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		// Writing to a bytes.Buffer does not fail.
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})
	}
	return b.Bytes()
}

func addZones(files map[string][]byte, zones string) error {
	if zones == "" {
		return nil
	}
	z, err := zip.OpenReader(zones)
	if err != nil {
		return fmt.Errorf("read the time zones of the Go toolchain: %w", err)
	}
	defer z.Close()
	for _, f := range z.File {
		if f.FileInfo().IsDir() || strings.Contains(f.Name, "..") {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return fmt.Errorf("read the time zones in %s: %w", zones, err)
		}
		b, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return fmt.Errorf("read the time zones in %s: %w", zones, err)
		}
		files[path.Join("usr/share/zoneinfo", f.Name)] = b
	}
	return nil
}
