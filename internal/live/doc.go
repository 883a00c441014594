// Package live keeps the files of running pods equal to a wanted tree: it
// watches the source, compares, and sends what is missing.
//
// The main types are [Target], one agent in one pod, and [Watcher], which says
// that source files may have changed. A Target converges: whatever happens (an
// edit, a lost connection, a new pod, another session) it compares the wanted
// tree with what the agent has and sends one patch from the one to the other.
// What to do next is decided by a pure function (machine.go); the goroutine of
// [Target.Run] does it. The other methods may be called from any goroutine.
package live
