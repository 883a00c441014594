// Package attest says what is in an image and how it was made, attaches that to the
// image in its registry, and checks it before the image is deployed.
//
// The main type is [Client], which attaches [Statement]s to an image as OCI 1.1
// referrers and verifies them against a [Policy]. Statements are made by [SBOM] and
// [Provenance]; with a [Signer] they are signed, and so is the image's digest. The
// same input gives the same bytes: nothing here asks for the time or for chance, so
// attaching twice is attaching once. A Client may be used by several goroutines at
// once.
package attest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	statementType = "https://in-toto.io/Statement/v1"
	// PredicateSBOM and PredicateProvenance say what a statement is about.
	PredicateSBOM       = "https://spdx.dev/Document"
	PredicateProvenance = "https://slsa.dev/provenance/v1"
	// BuildType is the build type of images that Bight builds.
	BuildType = "https://bight.dev/build/v1"
)

// Statement is an in-toto statement about images.
type Statement struct {
	Type          string          `json:"_type"`
	Subject       []Subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

// Subject names an image by its digest: {"sha256": "<hex>"}.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// Image is the subject for an image, with the digest as registries write it,
// "sha256:<hex>".
func Image(name, digest string) (Subject, error) {
	algorithm, hex, ok := strings.Cut(digest, ":")
	if !ok || algorithm == "" || hex == "" {
		return Subject{}, fmt.Errorf("%q is no digest of image %s: it is written sha256:<hex>", digest, name)
	}
	return Subject{Name: name, Digest: map[string]string{algorithm: hex}}, nil
}

func (s Subject) same(digest string) bool {
	algorithm, hex, _ := strings.Cut(digest, ":")
	return hex != "" && s.Digest[algorithm] == hex
}

func statement(subject Subject, predicateType string, predicate any) (Statement, error) {
	data, err := json.Marshal(predicate)
	if err != nil {
		return Statement{}, fmt.Errorf("write a statement about %s: %w", subject.Name, err)
	}
	return Statement{Type: statementType, Subject: []Subject{subject}, PredicateType: predicateType, Predicate: data}, nil
}

// Build is how an image was made.
type Build struct {
	// Builder identifies who built: a URI of a worker's kind, never of one worker.
	Builder string
	// Type is the way of building; "" is [BuildType].
	Type string
	// Invocation identifies the one build: a change and its attempt.
	Invocation string
	// Parameters are what the user decides: app, service, environment. Internal is
	// what the builder decides.
	Parameters, Internal map[string]string
	// Inputs are what the build is made of.
	Inputs []Resource
	// Started and Finished are left out when zero.
	Started, Finished time.Time
}

// Resource is an input of a build.
type Resource struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest,omitempty"`
}

// Commit is the resource of a commit of a repository.
func Commit(repository, commit string) Resource {
	if !strings.HasPrefix(repository, "git+") {
		repository = "git+" + repository
	}
	return Resource{Name: "source", URI: repository, Digest: map[string]string{"gitCommit": commit}}
}

// Toolchain is the resource of a compiler: Toolchain("go", "1.26.8").
func Toolchain(name, version string) Resource {
	return Resource{Name: name, URI: "pkg:generic/" + escape(name) + "@" + escape(version)}
}

type provenance struct {
	Definition struct {
		Type         string            `json:"buildType"`
		External     map[string]string `json:"externalParameters"`
		Internal     map[string]string `json:"internalParameters,omitempty"`
		Dependencies []Resource        `json:"resolvedDependencies,omitempty"`
	} `json:"buildDefinition"`
	Run struct {
		Builder struct {
			ID string `json:"id"`
		} `json:"builder"`
		Metadata *metadata `json:"metadata,omitempty"`
	} `json:"runDetails"`
}

type metadata struct {
	Invocation string `json:"invocationId,omitempty"`
	Started    string `json:"startedOn,omitempty"`
	Finished   string `json:"finishedOn,omitempty"`
}

// Provenance is the SLSA v1 statement about how an image was made.
func Provenance(subject Subject, b Build) (Statement, error) {
	if b.Builder == "" {
		return Statement{}, fmt.Errorf("provenance of %s: it needs the builder's id", subject.Name)
	}
	var p provenance
	p.Definition.Type = b.Type
	if b.Type == "" {
		p.Definition.Type = BuildType
	}
	p.Definition.External = map[string]string{}
	maps.Copy(p.Definition.External, b.Parameters)
	p.Definition.Internal = b.Internal
	p.Definition.Dependencies = slices.Clone(b.Inputs)
	slices.SortFunc(p.Definition.Dependencies, func(a, b Resource) int {
		return strings.Compare(a.Name+"\x00"+a.URI, b.Name+"\x00"+b.URI)
	})
	p.Run.Builder.ID = b.Builder
	m := metadata{b.Invocation, stamp(b.Started), stamp(b.Finished)}
	if m != (metadata{}) {
		p.Run.Metadata = &m
	}
	return statement(subject, PredicateProvenance, p)
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
