// Package imagefacts reviews the images that a change builds by what their
// manifests and configurations say: who they run as, what they stand on, how much
// they grew, whether their content is listed. Its main type is [Image], whose faults the
// pure function [Findings] tells.
package imagefacts

import (
	"fmt"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/bightdev/bight/internal/change/review"
)

// Annotations of the Open Container Initiative that say what an image stands on.
const (
	baseName   = "org.opencontainers.image.base.name"
	baseDigest = "org.opencontainers.image.base.digest"
)

// Growth that deserves a word: both of these.
const (
	growBytes   = 5 << 20
	growPercent = 20
)

// Image is what is known of a service's image.
type Image struct {
	Service  string
	Manifest *v1.Manifest
	Config   *v1.ConfigFile

	// Base is the manifest of the image that the base commit was built to; nil
	// is not known.
	Base *v1.Manifest

	// SBOM says whether a list of the image's content is attached to it.
	SBOM bool

	// From are the references that the build started from, as written
	// ("golang:1.26", "alpine@sha256:..."), with the line that they are at.
	From []Reference

	// File and Line are what decides how the image is built.
	File string
	Line int
}

// Reference is a base image as the source names it.
type Reference struct {
	Name string
	Line int
}

// Findings says what is wrong with an image.
func Findings(img Image) []review.Finding {
	var out []review.Finding
	add := func(rule string, s review.Severity, line int, format string, args ...any) {
		out = append(out, review.Finding{
			Rule: rule, Severity: s, File: img.File, Line: line, Object: "image of " + img.Service,
			Message: fmt.Sprintf(format, args...), Why: "the change builds the image of " + img.Service,
		})
	}
	if user := img.Config.Config.User; root(user) {
		said := "names no user"
		if user != "" {
			said = "says user " + strconv.Quote(user)
		}
		add("runs-as-root", review.Warning, img.Line,
			"the image runs as root: its configuration %s. Set a user by number, 65532 for example, so that Kubernetes can verify runAsNonRoot", said)
	}
	if name, digest := img.Manifest.Annotations[baseName], img.Manifest.Annotations[baseDigest]; name != "" && digest == "" {
		add("base-without-digest", review.Warning, img.Line, "the image stands on %s and does not say on which build of it: there is no annotation %s", name, baseDigest)
	}
	for _, r := range img.From {
		if !pinned(r.Name) {
			add("base-not-pinned", review.Warning, r.Line, "%s is not pinned: what it means can change between two builds of one commit. Add its digest, %s@sha256:...", r.Name, strings.TrimSuffix(r.Name, ":latest"))
		}
	}
	if img.Base != nil {
		before, after := size(img.Base), size(img.Manifest)
		if grew := after - before; grew >= growBytes && before > 0 && grew*100 >= before*growPercent {
			add("grows", review.Warning, img.Line, "the image grows by %s (%d %%), from %s to %s", bytes(grew), grew*100/before, bytes(before), bytes(after))
		}
	}
	if !img.SBOM {
		add("no-sbom", review.Note, img.Line, "no list of the image's content (SBOM) is attached to it")
	}
	return out
}

// root reports whether a configuration's user is, or could be, root. A name says
// nothing that Kubernetes could verify, but only "root" is known to be wrong.
func root(user string) bool {
	name, _, _ := strings.Cut(user, ":")
	switch name {
	case "", "root":
		return true
	}
	n, err := strconv.ParseUint(name, 10, 32)
	return err == nil && n == 0
}

// pinned reports whether a reference names one image for ever.
func pinned(ref string) bool {
	return ref == "scratch" || strings.Contains(ref, "@sha256:")
}

// size is what a node has to fetch.
func size(m *v1.Manifest) int64 {
	n := m.Config.Size
	for _, l := range m.Layers {
		n += l.Size
	}
	return n
}

func bytes(n int64) string {
	if n >= 10<<20 {
		return fmt.Sprintf("%d MiB", (n+1<<19)>>20)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
