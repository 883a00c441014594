// Package project reads bight.yaml, the optional file in which a user overrides
// what was read from the source.
//
// The main type is [File]. It is strict: a field that it does not know and a
// value that cannot be right are errors with file, line and column, all of them
// at once. A File is read only after [Parse] and may be shared.
package project

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Name is the file's name, at the root of the app.
const Name = "bight.yaml"

// File is a parsed bight.yaml.
type File struct {
	Name     string             `json:"name,omitempty" jsonschema:"description=The app's name. Default: the last element of the module path or the directory's name."`
	Services map[string]Service `json:"services,omitempty" jsonschema:"description=What to change about services that were found or to add to them by name."`
	Tasks    map[string]Task    `json:"tasks,omitempty" jsonschema:"description=Commands that are run on demand."`
	Linters  map[string]Linter  `json:"linters,omitempty" jsonschema:"description=Programs that look at the changed files in each review and write SARIF\\, by the name that their findings are known by."`

	at map[string]position // by path: "services.cart.ports.0"
}

// Service overrides facts of one service, or adds one that was not found.
type Service struct {
	Ignore   bool                `json:"ignore,omitempty" jsonschema:"description=Leave the service out."`
	Source   string              `json:"source,omitempty" jsonschema:"description=The service's directory\\, relative to this file. It names a service that was found under another name and adds one that was not."`
	Build    *Build              `json:"build,omitempty" jsonschema:"description=How it is built."`
	Args     []string            `json:"args,omitempty" jsonschema:"description=Arguments of the program\\, in place of those that were chosen."`
	Ports    []Port              `json:"ports,omitempty" jsonschema:"description=The ports that it listens on\\, in place of those that were found. The first is the main one."`
	Env      map[string]EnvValue `json:"env,omitempty" jsonschema:"description=Values of environment variables."`
	Links    map[string]string   `json:"links,omitempty" jsonschema:"description=Variables that carry the address of another service: SERVICE or SERVICE:PORT."`
	Health   *Health             `json:"health,omitempty" jsonschema:"description=How to ask whether it can serve."`
	Replicas *int                `json:"replicas,omitempty" jsonschema:"minimum=1,description=How many pods run."`
	Volumes  []Volume            `json:"volumes,omitempty" jsonschema:"description=Directories whose content outlives the pods."`

	Test       string `json:"test,omitempty" jsonschema:"description=A command for a shell that tests the service\\, run in its directory. Tests of Go packages are found without."`
	TestReport string `json:"testReport,omitempty" jsonschema:"description=A pattern of the JUnit files that test writes\\, relative to the service's directory."`
}

// Build says how a service is built. One of Go and Static.
type Build struct {
	Go     string   `json:"go,omitempty" jsonschema:"description=The directory of the package main\\, relative to this file."`
	Static string   `json:"static,omitempty" jsonschema:"description=The directory whose files are served as they are."`
	Assets []string `json:"assets,omitempty" jsonschema:"description=Files and directories that the program opens at run time\\, relative to this file: PATH or PATH:AS."`
}

// Port is a port that a service listens on.
type Port struct {
	Name     string `json:"name,omitempty" jsonschema:"maxLength=15,description=Default: the protocol."`
	Number   int    `json:"number" jsonschema:"minimum=1,maximum=65535"`
	Protocol string `json:"protocol,omitempty" jsonschema:"enum=http,enum=grpc,enum=tcp,enum=udp,default=http"`
	Env      string `json:"env,omitempty" jsonschema:"description=The variable that is set to the number."`
}

// Health says how to ask a service whether it can serve.
type Health struct {
	Kind string `json:"kind,omitempty" jsonschema:"enum=http,enum=grpc,enum=tcp,description=Default: http when there is a path."`
	Path string `json:"path,omitempty" jsonschema:"pattern=^/"`
	Port int    `json:"port,omitempty" jsonschema:"minimum=1,maximum=65535,description=Default: the main port."`
}

// Volume is a directory whose content outlives the pods.
type Volume struct {
	Name string `json:"name"`
	Path string `json:"path" jsonschema:"pattern=^/"`
	Size string `json:"size,omitempty" jsonschema:"default=1Gi,description=A Kubernetes quantity such as 500Mi or 10Gi."`
}

// Task is a command that is run on demand.
type Task struct {
	Command []string `json:"command"`
	Service string   `json:"service,omitempty" jsonschema:"description=Run it in this service's image."`
}

// Linter is a program that looks at the changed files in each review.
type Linter struct {
	Command []string `json:"command" jsonschema:"description=The program and its arguments\\, run at the repository's root. {files} stands for the changed files and {output} for a file to write SARIF to; without it SARIF is read from stdout."`
	Files   []string `json:"files,omitempty" jsonschema:"description=Patterns of the files that it is for\\, as in .dockerignore\\, relative to the repository's root. Default: all."`
}

// EnvValue is the value of a variable: a plain one, or {secret: true, value: ...}.
type EnvValue struct {
	Value  string `json:"value"`
	Secret bool   `json:"secret,omitempty" jsonschema:"description=Keep it in a Secret and never print it."`
}

type position struct{ line, column int }

// Error is one thing that is wrong with the file.
type Error struct {
	Line, Column int // 0: the file as a whole
	Text         string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Text
	}
	return fmt.Sprintf("%s:%d:%d: %s", Name, e.Line, e.Column, e.Text)
}

// maxBytes is how large a file may be.
const maxBytes = 256 << 10

// Load reads the file in dir. Where there is none it returns an empty File.
func Load(dir string) (*File, error) {
	b, err := read(filepath.Join(dir, Name))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, "bight.yml")); err == nil {
			return nil, &Error{Text: fmt.Sprintf("bight.yml: the file is called %s; rename it", Name)}
		}
		return &File{at: map[string]position{}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", Name, err)
	}
	return Parse(b)
}

// read returns a file's content, and no more of it than Parse takes.
func read(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &Error{Text: Name + " is not a regular file"}
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxBytes+1))
}

// Parse reads the text of a file.
func Parse(b []byte) (*File, error) {
	if len(b) > maxBytes {
		return nil, &Error{1, 1, fmt.Sprintf("the file has more than %d KiB; leave out what Bight finds by itself", maxBytes>>10)}
	}
	f := &File{at: map[string]position{}}
	d := &decoder{at: f.at, bad: map[string]bool{}}
	d.document(b, f)
	f.check(d)
	if err := d.joined(); err != nil {
		return nil, err
	}
	return f, nil
}

// Dirs returns the directories that services are said to be built from, by the
// service's name.
func (f *File) Dirs() map[string]string {
	out := map[string]string{}
	for name, s := range f.Services {
		switch {
		case s.Ignore:
		case s.Source != "":
			out[name] = path.Clean(s.Source)
		case s.Build != nil && s.Build.Go != "":
			out[name] = path.Clean(s.Build.Go)
		}
	}
	return out
}

// check looks for values that no app could have.
func (f *File) check(d *decoder) {
	if f.Name != "" {
		f.checkLabel(d, "name", "the app's name", f.Name)
	}
	for name, s := range f.Services {
		at := "services." + name
		f.checkLabel(d, at, "the service's name", name)
		if s.Source != "" {
			f.checkDir(d, at+".source", s.Source)
		}
		f.checkBuild(d, at+".build", s.Build)
		f.checkPorts(d, at+".ports", s.Ports)
		f.checkHealth(d, at+".health", s.Health)
		f.checkVolumes(d, at+".volumes", s.Volumes)
		f.checkTest(d, at, s)
		if s.Replicas != nil && !d.bad[at+".replicas"] && (*s.Replicas < 1 || *s.Replicas > 1000) {
			d.fail(f.at[at+".replicas"], "replicas is %d; it must be between 1 and 1000 (ignore: true leaves a service out)", *s.Replicas)
		}
		for env := range s.Env {
			f.checkEnvName(d, at+".env."+env, env)
		}
		for env, to := range s.Links {
			f.checkEnvName(d, at+".links."+env, env)
			if _, dup := s.Env[env]; dup {
				d.fail(f.at[at+".links."+env], "%s is under env and under links; keep one", env)
			}
			if to == "" && !d.bad[at+".links."+env] {
				d.fail(f.at[at+".links."+env], "%s links to nothing; write SERVICE or SERVICE:PORT", env)
			}
		}
	}
	for name, t := range f.Tasks {
		f.checkLabel(d, "tasks."+name, "the task's name", name)
		if len(t.Command) == 0 && !d.bad["tasks."+name] && !d.bad["tasks."+name+".command"] {
			d.fail(f.at["tasks."+name], "task %s has no command; write command: [PROGRAM, ARG]", name)
		}
	}
	f.checkLinters(d)
}

func (f *File) checkBuild(d *decoder, at string, b *Build) {
	if b == nil {
		return
	}
	if b.Go != "" && b.Static != "" {
		d.fail(f.at[at], "build has both go and static; keep one")
	}
	if b.Go != "" {
		f.checkDir(d, at+".go", b.Go)
	}
	if b.Static != "" {
		f.checkDir(d, at+".static", b.Static)
	}
	for i, a := range b.Assets {
		from, as := assetPair(a)
		f.checkDir(d, fmt.Sprintf("%s.assets.%d", at, i), from)
		f.checkDir(d, fmt.Sprintf("%s.assets.%d", at, i), as)
	}
}

// maxPorts is how many ports a service may have.
const maxPorts = 100

func (f *File) checkPorts(d *decoder, at string, ports []Port) {
	if len(ports) > maxPorts {
		d.fail(f.at[at], "%d ports are more than the %d that are read", len(ports), maxPorts)
		return
	}
	for i, p := range ports {
		here := fmt.Sprintf("%s.%d", at, i)
		if (p.Number < 1 || p.Number > 65535) && !d.bad[here] && !d.bad[here+".number"] {
			d.fail(f.first(here+".number", here), "port %d is not between 1 and 65535", p.Number)
		}
		if p.Protocol != "" && !slices.Contains(protocols, p.Protocol) {
			d.fail(f.at[here+".protocol"], "protocol %q is none of %s%s", p.Protocol, strings.Join(protocols, ", "), didYouMean(p.Protocol, protocols))
		}
		if len(p.Name) > 15 {
			d.fail(f.at[here+".name"], "port name %q has %d characters; Kubernetes allows 15", p.Name, len(p.Name))
		}
		if p.Env != "" {
			f.checkEnvName(d, here+".env", p.Env)
		}
		for _, o := range ports[:i] {
			if o.Number == p.Number && p.Number > 0 && (o.Protocol == "udp") == (p.Protocol == "udp") {
				d.fail(f.first(here+".number", here), "port %d is listed twice", p.Number)
			}
		}
	}
}

var protocols = []string{"http", "grpc", "tcp", "udp"}

func (f *File) checkHealth(d *decoder, at string, h *Health) {
	if h == nil {
		return
	}
	kinds := []string{"http", "grpc", "tcp"}
	if h.Kind != "" && !slices.Contains(kinds, h.Kind) {
		d.fail(f.at[at+".kind"], "kind %q is none of %s%s", h.Kind, strings.Join(kinds, ", "), didYouMean(h.Kind, kinds))
	}
	if h.Path != "" && h.Path[0] != '/' {
		d.fail(f.at[at+".path"], "path %q does not start with a slash", h.Path)
	}
	if h.Kind == "http" && h.Path == "" && !d.bad[at+".path"] {
		d.fail(f.at[at], "health of kind http needs a path")
	}
	if _, set := f.at[at+".port"]; set && !d.bad[at+".port"] && (h.Port < 1 || h.Port > 65535) {
		d.fail(f.at[at+".port"], "port %d is not between 1 and 65535", h.Port)
	}
}

func (f *File) checkVolumes(d *decoder, at string, list []Volume) {
	for i, v := range list {
		here := fmt.Sprintf("%s.%d", at, i)
		if v.Name == "" && !d.bad[here] && !d.bad[here+".name"] {
			d.fail(f.at[here], "volume has no name")
		} else if v.Name != "" {
			f.checkLabel(d, here+".name", "the volume's name", v.Name)
		}
		if !path.IsAbs(v.Path) && !d.bad[here] && !d.bad[here+".path"] {
			d.fail(f.first(here+".path", here), "path %q is not absolute; write where the container sees the directory, such as /data", v.Path)
		}
		if v.Size != "" && !validQuantity(v.Size) {
			d.fail(f.at[here+".size"], "size %q is no Kubernetes quantity; write a number with Ki, Mi, Gi or Ti, such as 1Gi", v.Size)
		}
	}
}

// first is the first of the paths that the file has.
func (f *File) first(paths ...string) position {
	for _, p := range paths {
		if at, ok := f.at[p]; ok {
			return at
		}
	}
	return position{1, 1}
}
