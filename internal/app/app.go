// Package app says what an application is: its services, how they are built,
// which ports they open, what they read from their environment and which
// service talks to which. It is pure data and rules: nothing here touches a
// disk, a clock or a network.
//
// The main type is [App]. Package detect fills one from a source tree, package
// project overrides facts of it from bight.yaml, and everything else in the
// program (building, deploying, live update, shipping) reads it.
//
// An App is built once and then read only; it may be read from many goroutines.
package app

import "slices"

// App is one repository's application.
type App struct {
	Name     string     `json:"app"`      // a DNS label
	Services []*Service `json:"services"` // sorted by name
	Tasks    []*Task    `json:"tasks,omitempty"`

	// Linters are programs that look at each change besides Bight's own review.
	Linters []*Linter `json:"linters,omitempty"`

	// Questions are facts that nobody but the user knows. Nothing is deployed
	// while one is open.
	Questions []Question `json:"questions,omitempty"`

	// Notes are things that were seen and deliberately left alone, for example
	// a program that does not serve.
	Notes []Note `json:"notes,omitempty"`

	// Unreadable are Go files with a syntax error: what they say is not known, so
	// services, ports and links may be missing from the App.
	Unreadable []Note `json:"unreadable,omitempty"`

	// Dir is the absolute directory that every path in the App is relative to.
	Dir string `json:"-"`
}

// Service returns the service of that name, or nil.
func (a *App) Service(name string) *Service {
	i := slices.IndexFunc(a.Services, func(s *Service) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return a.Services[i]
}

// Service is one deployable part of an App.
type Service struct {
	Name   string   `json:"name"`           // a DNS label of at most 63 characters, unique in the App
	Entry  From     `json:"entry,omitzero"` // its entry in bight.yaml, if it has one
	Source Source   `json:"source"`
	Build  Build    `json:"build"`
	Args   []string `json:"args,omitempty"` // appended to the program's own command
	// ArgsFrom is where those arguments were read that carry no port and no link.
	ArgsFrom From     `json:"argsFrom,omitzero"`
	Ports    []Port   `json:"ports"` // the first is the main one
	Env      []EnvVar `json:"env"`   // sorted by name
	Links    []Link   `json:"links"` // sorted by variable
	Health   *Health  `json:"health,omitempty"`
	Volumes  []Volume `json:"volumes,omitempty"`

	// Replicas is how many pods run; 0 means 1.
	Replicas int32 `json:"replicas,omitempty"`
	// ReplicasFrom is where their number was read.
	ReplicasFrom From `json:"replicasFrom,omitzero"`

	// Test is how the service is tested besides the tests of Go packages; nil is
	// not at all.
	Test *Test `json:"test,omitempty"`
}

// Test is a service's own way to test it.
type Test struct {
	Command string `json:"command"` // for a shell in the service's directory
	// Report is a pattern of JUnit files that the command writes, relative to the
	// service's directory; "" if it writes none.
	Report string `json:"report,omitempty"`
	From   From   `json:"from"`
}

// Linter is a program that looks at changed files and writes SARIF.
type Linter struct {
	Name string `json:"name"`
	// Command is the program and its arguments. The argument {files} stands for the
	// changed files, {output} for the file to write to in place of stdout.
	Command []string `json:"command"`
	// Files are patterns of the files that it is for, as in .dockerignore, relative
	// to the repository's root; none is all.
	Files []string `json:"files,omitempty"`
	From  From     `json:"from"`
}

// Port returns the service's main port, or nil when it opens none.
func (s *Service) Port() *Port {
	if len(s.Ports) == 0 {
		return nil
	}
	return &s.Ports[0]
}

// Source is where a service's code is.
type Source struct {
	Dir  string `json:"dir"` // relative to App.Dir, slash separated; "." is the root
	From From   `json:"from"`
}

// Kinds of [Build].
const (
	BuildGo     = "go"     // a Go package main
	BuildStatic = "static" // files served as they are
)

// Build is how a service becomes an image.
type Build struct {
	Kind string `json:"kind"` // BuildGo or BuildStatic

	// Module is the directory of the go.mod that the package belongs to, and
	// Package its import path relative to that ("./cmd/cart"). Go only.
	Module  string `json:"module,omitempty"`
	Package string `json:"package,omitempty"`

	// Root is the directory that a static site is served from, relative to
	// App.Dir. Static only.
	Root string `json:"root,omitempty"`

	// Assets are files and directories that a Go program opens at run time by a
	// relative path (templates, pages). They are put beside the program.
	Assets []Asset `json:"assets,omitempty"`

	From From `json:"from"`
}

// Asset is a file or directory that a program opens at run time.
type Asset struct {
	Path string `json:"path"` // where it is, relative to App.Dir
	As   string `json:"as"`   // the relative path that the program opens, relative to its working directory
	From From   `json:"from"`
}

// Protocols of a [Port].
const (
	HTTP = "http"
	GRPC = "grpc"
	TCP  = "tcp"
	UDP  = "udp"
)

// Port is a port that a service listens on. The Kubernetes Service has the same
// number, so that a host:port read from source needs no second look-up.
type Port struct {
	Name     string `json:"name"` // unique in the service: "http", "grpc", "metrics", ...
	Number   int    `json:"number"`
	Protocol string `json:"protocol"`       // HTTP, GRPC, TCP or UDP
	Env      string `json:"env,omitempty"`  // the variable that sets it, where there is one
	Flag     string `json:"flag,omitempty"` // the flag that sets it, where there is one
	From     From   `json:"from"`
}

// EnvVar is a variable that a service reads.
type EnvVar struct {
	Name     string `json:"name"`
	Value    string `json:"value,omitempty"`    // what the pod is given; "" with Set false leaves it unset
	Set      bool   `json:"set"`                // whether the pod is given Value
	Default  string `json:"default,omitempty"`  // what the code uses when it is unset
	Required bool   `json:"required,omitempty"` // the program does not start without it
	Secret   bool   `json:"secret,omitempty"`   // kept in a Secret, never printed
	From     From   `json:"from"`
}

// Link says that a service reaches another through a variable or a flag.
type Link struct {
	To    string `json:"to"`             // the name of a Service of the App
	Port  int    `json:"port"`           // the number of one of its ports
	Env   string `json:"env,omitempty"`  // the variable, or
	Flag  string `json:"flag,omitempty"` // the flag (without dashes), that carries the address
	Value string `json:"value"`          // what it is set to: "cart:7070", "http://cart:8080", ...
	From  From   `json:"from"`
}

// Kinds of [Health].
const (
	HealthHTTP = "http"
	HealthGRPC = "grpc"
	HealthTCP  = "tcp"
)

// Health is how to ask a service whether it can serve.
type Health struct {
	Kind string `json:"kind"`
	Port int    `json:"port"`
	Path string `json:"path,omitempty"` // HTTP only
	From From   `json:"from"`
}

// Volume is a directory whose content outlives the pods.
type Volume struct {
	Name string `json:"name"`
	Path string `json:"path"` // where the container sees it, absolute
	Size string `json:"size"` // a Kubernetes quantity, "1Gi"
	From From   `json:"from"`
}

// Task is a command that is run on demand or before the services start.
type Task struct {
	Name    string   `json:"name"`
	Command []string `json:"command"`
	Service string   `json:"service,omitempty"` // runs in this service's image
	From    From     `json:"from"`
}

// Confidence says how sure a fact is.
type Confidence string

// Levels of [Confidence].
const (
	Certain Confidence = "certain" // stated by the code or the user
	Likely  Confidence = "likely"  // a convention that rarely means anything else
	Guess   Confidence = "guess"   // the best of several readings
)

// From is where a fact was read.
type From struct {
	File       string     `json:"file"` // relative to App.Dir, slash separated
	Line       int        `json:"line"` // from 1; 0 means the file as a whole
	Confidence Confidence `json:"confidence"`
	Why        string     `json:"why,omitempty"` // one clause: "default of $PORT"
}

// Question is a fact that only the user knows.
type Question struct {
	Service string `json:"service,omitempty"`
	Env     string `json:"env,omitempty"`
	Text    string `json:"text"` // a full sentence, ending with what to write in bight.yaml
	From    From   `json:"from"`
}

// Note is something that was seen and left alone.
type Note struct {
	Text string `json:"text"`
	From From   `json:"from"`
}
