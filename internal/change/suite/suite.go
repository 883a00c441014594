// Package suite runs the tests of an app: it finds them, leaves out those whose
// inputs are known to pass, runs the rest within limits, and tells what happened.
//
// The main types are [Source], which finds the [Unit]s of a source tree, and
// [Runner], which runs some of them and returns a [Result]. A unit is the tests of
// one Go package, or a service's own test command. Its key is the digest of all
// that its tests can read, so a unit that a change can't affect has the key it had
// before, and its result comes from the [Cache]. [Split] shares units out over
// workers, [Merge] puts their results together.
//
// A Runner may be used by several goroutines at once; everything else is a value
// or says otherwise.
package suite

import (
	"time"
)

// Kind is what runs a unit.
type Kind string

const (
	GoPackage Kind = "go"
	Shell     Kind = "command"
)

// Unit is a set of tests with a key of its own.
type Unit struct {
	Name string `json:"name"` // a Go package's import path, or a service's name
	Kind Kind   `json:"kind"`
	Dir  string `json:"dir"` // where it runs, relative to the source's root
	// Key is the digest of everything that the tests can read.
	Key string `json:"key"`
	// Wide tells why the key covers the whole source tree and not only what the
	// package imports and has below its directory; "" where it does not.
	Wide string `json:"wide,omitempty"`
	// Shape is, of a wide unit, the digest of what the tests import and of which files
	// there are, but not of what is in these: see [Cache.Unread].
	Shape string `json:"shape,omitempty"`
	// Module is the directory of the Go module, relative to the root.
	Module string `json:"module,omitempty"`
	// Command is what a shell runs, Report the pattern of the JUnit files that it
	// writes, relative to Dir.
	Command string `json:"command,omitempty"`
	Report  string `json:"report,omitempty"`
}

// Status is how a test or a unit ended.
type Status string

const (
	Passed  Status = "passed"
	Failed  Status = "failed"
	Skipped Status = "skipped"
	// Stopped is what was ended before it had a result; see Stop.
	Stopped Status = "stopped"
)

// Stop is the limit that ended a run.
type Stop string

const (
	StopTime      Stop = "time"
	StopProcesses Stop = "processes"
	StopDisk      Stop = "disk"
	StopMemory    Stop = "memory"
	StopCancelled Stop = "cancelled"
)

// Result is what a run of units showed.
type Result struct {
	Status Status       `json:"status"` // passed, failed or stopped
	Counts Counts       `json:"counts"`
	Units  []UnitResult `json:"units"`
	// Flakes are the tests that both failed and passed with the same inputs, each
	// time that happens, also those that policy lets pass.
	Flakes []Flake `json:"flakes,omitempty"`
	// Isolation is what held the tests: "cgroup v2", "cgroup v1", "watchdog".
	Isolation string `json:"isolation,omitempty"`
	// Notes are things that went wrong around the tests: a corrupt cache entry.
	Notes   []string `json:"notes,omitempty"`
	Seconds float64  `json:"seconds"`
}

// Counts counts tests, subtests apart from those that have them. Cached ones count
// in their status too.
type Counts struct {
	Passed  int `json:"passed"`
	Failed  int `json:"failed"`
	Skipped int `json:"skipped"`
	Flaky   int `json:"flaky"`
	Cached  int `json:"cached"`
}

// UnitResult is what happened to a unit.
type UnitResult struct {
	Name   string `json:"name"`
	Kind   Kind   `json:"kind"`
	Dir    string `json:"dir"`
	Key    string `json:"key"`
	Status Status `json:"status"`
	// Cached says why nothing was run: "same inputs as change 3f2a". "" if it was.
	Cached  string  `json:"cached,omitempty"`
	Seconds float64 `json:"seconds"`
	Tests   []Test  `json:"tests,omitempty"`
	// Stop is the limit that ended it and Reason tells of that, or of what else
	// went wrong that no single test tells, such as a package that does not compile.
	Stop   Stop   `json:"stop,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Output is the end of what was printed outside of tests; after a timeout
	// that includes the goroutines.
	Output []string `json:"output,omitempty"`
}

// Test is one test.
type Test struct {
	Name    string  `json:"name"` // with subtests: TestCart/empty
	Status  Status  `json:"status"`
	Seconds float64 `json:"seconds"`
	// File (relative to the source's root) and Line are where it failed.
	File   string   `json:"file,omitempty"`
	Line   int      `json:"line,omitempty"`
	Output []string `json:"output,omitempty"` // its last lines, when it failed
	// Flaky is set when it passed in a second run with the same inputs.
	Flaky bool `json:"flaky,omitempty"`
	// Quarantined is set when a flaky test's failure does not count by policy.
	Quarantined bool `json:"quarantined,omitempty"`
}

// Flake is a test that fails sometimes.
type Flake struct {
	Test        string  `json:"test"`   // unit and name
	Chance      float64 `json:"chance"` // that it is flaky, by its history
	Quarantined bool    `json:"quarantined"`
	File        string  `json:"file,omitempty"`
	Line        int     `json:"line,omitempty"`
}

// Limits are what tests may use. Zero fields have the defaults given here.
type Limits struct {
	Test      time.Duration // of one Go package or command: 10 min
	Total     time.Duration // of one run of Go packages, with compiling: 30 min
	Output    int64         // bytes of log kept, the rest is dropped: 64 MiB
	Disk      int64         // bytes in the temporary directory, and of one file: 8 GiB
	Reserve   int64         // bytes that must stay free on the disk: 512 MiB
	Processes int           // processes and, with a cgroup, threads: 2048
	Memory    int64         // bytes of all processes: unlimited
}

func (l Limits) withDefaults() Limits {
	def := func(v *int64, d int64) {
		if *v <= 0 {
			*v = d
		}
	}
	def((*int64)(&l.Test), int64(10*time.Minute))
	def((*int64)(&l.Total), int64(30*time.Minute))
	def(&l.Output, 64<<20)
	def(&l.Disk, 8<<30)
	def(&l.Reserve, 512<<20)
	if l.Processes <= 0 {
		l.Processes = 2048
	}
	return l
}
