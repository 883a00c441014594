// Package repo keeps the git repositories of apps and everything that the outer loop does with them: it
// serves them over smart HTTP, computes merges and commits without a checkout, exchanges commits with an
// outside host, and makes the clean working copies in which workers run a change's steps.
//
// Git itself is the user's or the image's git program, 2.38 or newer. It runs with none of the machine's
// configuration, no hooks but ours, no programs that a repository names, in a process group of its own that
// is killed as a whole when the context ends. Text from others (a ref, a path, a message) never becomes an
// option, and credentials never stand on a command line or in an error.
//
// The main types are [Server], which is an http.Handler, and [Repository]. Both may be used by many
// goroutines: git's own locks and compare-and-swap on refs order what they do. A directory given to
// [Checkout] belongs to one call at a time, which a lock file enforces.
package repo
