package attest

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

// Component is a part of an image and what it is made of in turn.
type Component struct {
	Name    string // "bin/cart"
	Version string
	PURL    string // package URL of the component itself, if it has one
	// Parts are the packages that it is made of.
	Parts []Part
}

// Part is a package inside a component.
type Part struct {
	Name, Version, PURL string
	License             string // as its maker declares it, "" if unknown
	Source              string // where it was got from
}

// Program reads what a compiled Go program is made of. name is its path in the
// image.
func Program(name string, r io.ReaderAt) (Component, error) {
	info, err := buildinfo.Read(r)
	if err != nil {
		return Component{}, fmt.Errorf("read the build information of program %s: %w", name, err)
	}
	main := info.Main
	c := Component{Name: name, Version: released(main.Version)}
	if main.Path != "" {
		c.PURL = purl("golang", main.Path, c.Version)
	}
	if v, ok := strings.CutPrefix(info.GoVersion, "go"); ok {
		v, _, _ = strings.Cut(v, " ")
		c.Parts = append(c.Parts, Part{Name: "std", Version: v, PURL: purl("golang", "std", v), License: "BSD-3-Clause"})
	}
	for _, d := range info.Deps {
		p := Part{Name: d.Path, Version: released(d.Version)}
		if r := d.Replace; r != nil && released(r.Version) == "" {
			p.Version, p.Source = "", "replaced by the directory "+r.Path
		} else if r != nil {
			p.Source = "replaces " + d.Path + "@" + d.Version
			p.Name, p.Version = d.Replace.Path, d.Replace.Version
		}
		p.PURL = purl("golang", p.Name, p.Version)
		c.Parts = append(c.Parts, p)
	}
	return c.sorted(), nil
}

// released is a module's version, or "" where it has none: it is a directory.
func released(version string) string {
	if version == "(devel)" {
		return ""
	}
	return version
}

// sorted puts the parts in order, each once.
func (c Component) sorted() Component {
	slices.SortFunc(c.Parts, func(a, b Part) int {
		return cmp.Or(cmp.Compare(a.PURL, b.PURL), cmp.Compare(a.Source, b.Source), cmp.Compare(a.License, b.License))
	})
	c.Parts = slices.CompactFunc(c.Parts, func(a, b Part) bool { return a.PURL == b.PURL })
	return c
}

// purl is a package URL.
func purl(kind, name, version string) string {
	parts := strings.Split(name, "/")
	for i := range parts {
		parts[i] = escape(parts[i])
	}
	out := "pkg:" + kind + "/" + strings.Join(parts, "/")
	if version != "" {
		out += "@" + escape(version)
	}
	return out
}

// escape encodes all but what a package URL takes as it is.
func escape(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(url.PathEscape(s), "@", "%40"), "+", "%2B")
}

type spdx struct {
	Version       string             `json:"spdxVersion"`
	License       string             `json:"dataLicense"`
	ID            string             `json:"SPDXID"`
	Name          string             `json:"name"`
	Namespace     string             `json:"documentNamespace"`
	Creation      spdxCreation       `json:"creationInfo"`
	Packages      []spdxPackage      `json:"packages"`
	Relationships []spdxRelationship `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Version       string         `json:"versionInfo,omitempty"`
	Download      string         `json:"downloadLocation"`
	FilesAnalyzed bool           `json:"filesAnalyzed"`
	Concluded     string         `json:"licenseConcluded"`
	Declared      string         `json:"licenseDeclared"`
	Copyright     string         `json:"copyrightText"`
	Purpose       string         `json:"primaryPackagePurpose,omitempty"`
	Info          string         `json:"sourceInfo,omitempty"`
	Checksums     []spdxChecksum `json:"checksums,omitempty"`
	References    []spdxRef      `json:"externalRefs,omitempty"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

const unknown = "NOASSERTION"

// SBOM is the statement about what an image is made of, as SPDX 2.3. A part of
// several components appears once. created is the document's time; the build's own
// is a good one.
func SBOM(subject Subject, created time.Time, components ...Component) (Statement, error) {
	doc := document(subject, created)
	root := spdxPackage{
		ID: "SPDXRef-Image", Name: subject.Name, Purpose: "CONTAINER",
		Download: unknown, Concluded: unknown, Declared: unknown, Copyright: unknown,
	}
	if sum := subject.Digest["sha256"]; sum != "" {
		root.Version = "sha256:" + sum
		root.Checksums = []spdxChecksum{{"SHA256", sum}}
		root.References = []spdxRef{reference("pkg:oci/" + escape(path.Base(subject.Name)) + "@sha256%3A" + sum)}
	}
	doc.Packages = append(doc.Packages, root)
	doc.relate("SPDXRef-DOCUMENT", "DESCRIBES", root.ID)
	components = slices.Clone(components)
	slices.SortFunc(components, func(a, b Component) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.PURL, b.PURL)) })
	seen := map[string]bool{}
	for _, c := range components {
		id := identify("Component", c.Name+" "+c.PURL)
		if seen[id] {
			continue
		}
		seen[id] = true
		p := spdxPackage{ID: id, Name: c.Name, Version: c.Version, Download: unknown, Concluded: unknown, Declared: unknown, Copyright: unknown}
		if c.PURL != "" {
			p.References = []spdxRef{reference(c.PURL)}
		}
		doc.Packages = append(doc.Packages, p)
		doc.relate(root.ID, "CONTAINS", id)
		for _, part := range c.sorted().Parts {
			inner := part.spdx()
			if !seen[inner.ID] {
				seen[inner.ID] = true
				doc.Packages = append(doc.Packages, inner)
			}
			doc.relate(id, "DEPENDS_ON", inner.ID)
		}
	}
	return statement(subject, PredicateSBOM, doc)
}

func document(subject Subject, created time.Time) *spdx {
	return &spdx{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: subject.Name,
		Namespace: "https://bight.dev/spdx/" + escape(subject.Name) + "/" + subject.Digest["sha256"],
		Creation:  spdxCreation{created.UTC().Format(time.RFC3339), []string{"Tool: bight"}},
	}
}

func (d *spdx) relate(a, kind, b string) {
	d.Relationships = append(d.Relationships, spdxRelationship{a, kind, b})
}

func reference(locator string) spdxRef { return spdxRef{"PACKAGE-MANAGER", "purl", locator} }

// identify makes an identifier, which may have few characters, for a name.
func identify(kind, name string) string {
	sum := sha256.Sum256([]byte(name))
	return "SPDXRef-" + kind + "-" + hex.EncodeToString(sum[:10])
}

func (p Part) spdx() spdxPackage {
	out := spdxPackage{
		ID: identify("Package", p.PURL+" "+p.Name+" "+p.Version), Name: p.Name, Version: p.Version,
		Download: unknown, Concluded: unknown, Declared: cmp.Or(p.License, unknown), Copyright: unknown,
	}
	if strings.Contains(p.Source, "://") {
		out.Download = p.Source
	} else {
		out.Info = p.Source
	}
	if p.PURL != "" {
		out.References = []spdxRef{reference(p.PURL)}
	}
	return out
}
