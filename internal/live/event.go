package live

import (
	"time"

	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/tree"
)

// EventKind is the kind of an [Event].
type EventKind string

// Kinds of [Event], and the fields that they set.
const (
	Connected EventKind = "connected" // State
	Lost      EventKind = "lost"      // Err
	Synced    EventKind = "synced"    // Seq, Tree, Files, Deleted, Bytes, Content, Diff, Send, Apply
	Started   EventKind = "started"   // Pid, Tree, After: since the order to restart
	Ready     EventKind = "ready"     // Pid, After: since the start
	Exited    EventKind = "exited"    // Pid, Code or Signal, Pause, Output: ended by itself
	Replaced  EventKind = "replaced"  // By: stopped until they leave
	Problem   EventKind = "problem"   // Err, Path
)

// Event is something that happened to a [Target].
type Event struct {
	Kind   EventKind
	Target string
	Time   time.Time

	State wire.State // of the agent

	Seq     uint64 // of the Wanted
	Tree    tree.Hash
	Files   int           // put; 0 when the agent had it all
	Deleted int           // files
	Bytes   int64         // sent
	Content int64         // of the files that were sent, before deltas and compression
	Diff    time.Duration // to find out what to send
	Send    time.Duration // until the last byte was handed over
	Apply   time.Duration // from there until the agent confirmed

	Pid    int
	Code   int
	Signal int
	After  time.Duration
	Pause  time.Duration // before it is started again
	Output []byte
	By     string

	Err  error
	Path string
}

// TargetState is a [Target] at one moment.
type TargetState struct {
	Name      string
	Connected bool
	InSync    bool      // the agent's tree is the wanted one
	Have      tree.Hash // digest of the agent's tree, as last confirmed
	Want      tree.Hash // digest of the wanted one
	Agent     wire.State
	Err       error // why it is not connected or not in sync
}
