// Package agent is what runs inside a pod under live update: it supervises the
// service's process, keeps its files equal to what a session sends, and carries
// byte streams to its ports. docs/architecture.md, "A pod under live update",
// says how the pieces fit.
//
// The main type is [Agent]. Below it, store owns the files (one patch at a
// time), [Supervisor] owns the process (one goroutine decides), and one server
// per session speaks package wire. The agent is the container's first process:
// it works in an image without anything else in it, as any user, with a root
// file system that can't be written. It runs on Linux only.
//
// The package imports few modules, since all of it is copied into every pod; a
// test in cmd/bight-agent holds the list.
package agent
