package policy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/bightdev/bight/internal/change/review"
)

// DefaultDir is where a repository keeps its policies.
const DefaultDir = ".bight/policies"

// Limits of what is read.
const (
	maxFiles    = 200
	maxFileSize = 1 << 20
)

// Source is where policies come from.
type Source struct {
	Dir    string     // in the repository; "" is DefaultDir
	Tenant []Document // set from outside; a change can't alter them
}

// Document is a YAML file of policies.
type Document struct {
	Name string // where it is from, as a person would look for it
	Data []byte
}

// file is a Document of a repository or a tenant.
type file struct {
	Document
	path     string // in the repository; "" if it is a tenant's
	fromBase bool
	trust    trust
}

// trust says who had a say in a file. What has more of it can't be weakened by
// what has less.
type trust int

const (
	fresh       trust = iota // the change adds it
	established              // it is as in the base commit
	tenants                  // set from outside
)

// load reads and parses every policy that judges the change.
func (s *Source) load(ctx context.Context, in *review.Input) (*set, error) {
	files, err := s.files(ctx, in)
	if err != nil {
		return nil, err
	}
	out := &set{}
	for _, f := range files {
		out.add(f)
	}
	return out, nil
}

// files returns the documents: a file that the change alters or removes as the
// base commit has it, all others as they are.
func (s *Source) files(ctx context.Context, in *review.Input) ([]file, error) {
	var out []file
	for _, d := range s.Tenant {
		out = append(out, file{Document: d, trust: tenants})
	}
	dir := s.Dir
	if dir == "" {
		dir = DefaultDir
	}
	names, err := headFiles(in, dir)
	if err != nil {
		return nil, err
	}
	base := map[string]bool{}
	for _, fd := range in.Diff.Files {
		old := fd.OldPath
		if old != "" && fd.Kind != review.Copied && path.Dir(old) == dir && isYAML(old) {
			base[old] = true
		}
	}
	for _, name := range names {
		if base[name] {
			continue
		}
		b, err := in.Read(name)
		if err != nil {
			return nil, fmt.Errorf("read the policy %s: %w", name, err)
		}
		f := file{Document: Document{name, b}, path: name, trust: established}
		if in.Diff.File(name) != nil {
			f.trust = fresh
		}
		out = append(out, f)
	}
	for name := range base {
		b, err := in.ReadBase(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("read the policy %s as the base commit has it, since the change alters it: %w", name, err)
		}
		out = append(out, file{Document: Document{name + " of the base commit", b}, path: name, fromBase: true, trust: established})
	}
	slices.SortStableFunc(out, func(a, b file) int { return cmp.Or(cmp.Compare(b.trust, a.trust), cmp.Compare(a.path, b.path)) })
	if len(out) > maxFiles {
		return nil, fmt.Errorf("there are more than %d files of policies", maxFiles)
	}
	return out, nil
}

func headFiles(in *review.Input, dir string) ([]string, error) {
	root, err := os.OpenRoot(in.Dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	d, err := root.Open(filepath.FromSlash(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the policies in %s: %w", dir, err)
	}
	defer d.Close()
	entries, err := d.ReadDir(10 * maxFiles)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("list the policies in %s: %w", dir, err)
	}
	var out []string
	for _, e := range entries {
		if !e.IsDir() && isYAML(e.Name()) {
			out = append(out, path.Join(dir, e.Name()))
		}
	}
	return out, nil
}

func isYAML(name string) bool { return path.Ext(name) == ".yaml" || path.Ext(name) == ".yml" }

// add parses a file's documents.
func (s *set) add(f file) {
	if len(f.Data) > maxFileSize {
		s.fail(f, 0, fmt.Errorf("the file has more than %d bytes", maxFileSize))
		return
	}
	dec := yaml.NewDecoder(bytes.NewReader(f.Data))
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			s.fail(f, 0, err)
			return
		}
		if len(n.Content) == 0 {
			continue
		}
		if err := s.document(f, n.Content[0]); err != nil {
			s.fail(f, n.Content[0].Line, err)
		}
	}
}

// document sorts one YAML document by its kind.
func (s *set) document(f file, n *yaml.Node) error {
	var head struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string `yaml:"kind"`
		Metadata   struct {
			Name      string `yaml:"name"`
			Namespace string `yaml:"namespace"`
		} `yaml:"metadata"`
	}
	if err := n.Decode(&head); err != nil {
		return err
	}
	group, _, _ := strings.Cut(head.APIVersion, "/")
	switch {
	case group == "admissionregistration.k8s.io" && head.Kind == "ValidatingAdmissionPolicy":
		return s.policy(f, n, false)
	case group == "bight.dev" && head.Kind == "ChangePolicy":
		return s.policy(f, n, true)
	case group == "admissionregistration.k8s.io" && head.Kind == "ValidatingAdmissionPolicyBinding":
		return s.binding(f, n)
	case head.Kind == "" || head.APIVersion == "":
		return errors.New("the document has no apiVersion or no kind")
	}
	var value map[string]any
	if err := n.Decode(&value); err != nil {
		return err
	}
	s.objects = append(s.objects, value) // params of a policy
	return nil
}

// fail notes a file that can't be read as what it should be.
func (s *set) fail(f file, line int, err error) {
	s.unreadable = append(s.unreadable, unreadable{f, line, err})
}

type unreadable struct {
	file file
	line int
	err  error
}

// problems says which files could not be read: as findings if the change wrote
// them, else as not checked.
func (s *set) problems(in *review.Input) ([]review.Finding, []review.Unchecked) {
	var findings []review.Finding
	var notes []review.Unchecked
	for _, u := range s.unreadable {
		if u.file.path != "" && !u.file.fromBase && in.Diff.File(u.file.path) != nil {
			findings = append(findings, review.Finding{
				Rule: "policy-file", Severity: review.Error, File: u.file.path, Line: u.line, Message: u.err.Error(),
				Why: "the change touches " + u.file.path + ", which is not a policy that can be read",
			})
			continue
		}
		notes = append(notes, review.Unchecked{What: u.file.Name, Why: u.err.Error()})
	}
	return findings, notes
}
