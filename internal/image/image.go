// Package image turns services into OCI images without Docker.
//
// The main types are [Builder], which turns one service into an [Artifact] (a
// tree of files and how to start them), and Publisher, which puts an artifact's
// layers on a base that we make ourselves and pushes what the registry lacks.
// Packages golang and static below are the builders; [Cached] wraps one so that
// the same inputs are never built twice.
//
// The tree is what both loops share: an image has it as its one application
// layer, at [Root], and live update makes a running pod's files equal to it.
package image

import (
	"context"
	"sync"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/tree"
)

const (
	// Root is where a service's tree is in its image, and the working directory
	// of its process there.
	Root = "/srv/app"
	// AgentPath is where an image that runs under the agent has the agent.
	AgentPath = "/bight/agent"
	// User is the numeric uid and gid that our images run as.
	User = 65532
)

// Inputs is everything that decides what a build gives.
type Inputs struct {
	// Files are the source files, by path relative to the app's directory. Their
	// content, the settings and the toolchain make up Digest. This is a list, not
	// a tree that is put anywhere: a file outside the app's directory (of a module
	// that a go.work names, say) has a path that starts with "../".
	Files tree.Tree
	// Dirs are the directories (relative to the app's directory) in which a new
	// file may become an input; a watcher watches these. One outside the app's
	// directory starts with "../".
	Dirs []string
	// Digest identifies the inputs: same digest, same artifact.
	Digest tree.Hash
}

// Artifact is a built service.
type Artifact struct {
	Service string
	// Tree is what the container has at Root. Each file's Local is readable for
	// as long as the build cache keeps it.
	Tree tree.Tree
	// Command starts the service, relative to Root: ["./cart"]. A static site is
	// started by the agent itself: ["/bight/agent", "static", ...]; then
	// NeedsAgent is true in every environment.
	Command    []string
	NeedsAgent bool
	// Restart tells whether a change of the tree takes effect only when the
	// process starts anew.
	Restart bool
	// Inputs is the digest of what it was built from. It is zero when a source
	// file changed while it was being built: then what was built is unknown.
	Inputs tree.Hash
	// By is what it was built for: "bight up". It is "" where nobody remembers.
	By string
	// Problems are files that could not be read and are missing from Tree.
	Problems []tree.Problem
	// Cached tells that nothing was built because the inputs were known.
	Cached bool

	once   sync.Once
	digest tree.Hash
}

// TreeDigest returns the digest of Tree, which must not change any more.
func (a *Artifact) TreeDigest() tree.Hash {
	a.once.Do(func() { a.digest = a.Tree.Digest() })
	return a.digest
}

// A Builder turns one service into files. Implementations are safe for
// concurrent use; a cancelled context stops the work and leaves nothing behind.
type Builder interface {
	// Inputs finds what decides the build of s. It is called often and must cost
	// little when nothing has changed.
	Inputs(ctx context.Context, a *app.App, s *app.Service) (*Inputs, error)
	// Build builds s from its present files. A failed compilation is a
	// *CompileError.
	Build(ctx context.Context, a *app.App, s *app.Service) (*Artifact, error)
}

// A Refresher is a Builder that can make use of a watcher's word.
type Refresher interface {
	Builder
	// BuildChanged builds s when, since its last build by this Builder, nothing
	// but the changed paths (relative to the app's directory; files or
	// directories) can have changed. Without an earlier build it is Build.
	BuildChanged(ctx context.Context, a *app.App, s *app.Service, changed []string) (*Artifact, error)
}

// CompileError is a failure that the author of the code has to mend. Output is
// what the compiler printed, unchanged.
type CompileError struct {
	Service string
	Output  string
}

func (e *CompileError) Error() string {
	return "service " + e.Service + " does not compile:\n" + e.Output
}
