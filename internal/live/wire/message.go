package wire

import (
	"fmt"
	"io/fs"
	"time"

	"github.com/bightdev/bight/internal/tree"
)

// Hello opens the conversation.
type Hello struct {
	Version uint64
	Client  string // who is there, for people: "anna@laptop"
}

// Phase is what the process is doing.
type Phase byte

// Phases of a [Process].
const (
	Stopped  Phase = iota // no process, none is wanted
	Starting              // runs, was not seen ready
	Ready                 // runs, was seen ready
	Waiting               // ended by itself, will be started again after a pause
	Held                  // stopped while somebody replaces it
)

func (p Phase) String() string {
	switch p {
	case Stopped:
		return "stopped"
	case Starting:
		return "starting"
	case Ready:
		return "ready"
	case Waiting:
		return "waiting"
	case Held:
		return "held"
	}
	return fmt.Sprintf("phase %d", byte(p))
}

// Process is the state of the service's process.
type Process struct {
	Phase  Phase
	Pid    int
	Starts int           // how often one was started
	Code   int           // exit code of the last one that ended by itself
	Signal int           // the signal that ended it, or 0
	Pause  time.Duration // before the next start, in Waiting
	Tree   tree.Hash     // digest of the tree that it was started from
}

// State is what an agent has and does.
type State struct {
	Version  uint64
	Agent    string    // the release that the agent is of
	Service  string    // the name it was given
	Change   uint64    // how often the tree has changed since the agent started
	Digest   tree.Hash // of the tree that the process runs from
	Source   tree.Hash // label that came with it, zero for the image's own
	Files    int
	Live     bool // the tree came by live update, not with the image
	Clients  []string
	Process  Process
	Problem  string // why the tree can't be known or changed, if so
	LastFrom string // which client made the present tree
}

// TreeEnd ends the entries of a tree.
type TreeEnd struct {
	Change uint64
	Digest tree.Hash
	Source tree.Hash
}

// Encodings of a patch's content.
const (
	Plain byte = 0
	Zstd  byte = 1
)

// PatchHeader announces a patch.
type PatchHeader struct {
	Base     tree.Hash // the digest of the tree that it starts from
	Target   tree.Hash // the digest of the tree that it makes
	Source   tree.Hash // a label for that, kept by the agent
	Restart  bool      // the process has to start anew
	Encoding byte
	Deletes  int
	Puts     int
}

// Applied confirms a patch.
type Applied struct {
	Change  uint64
	Digest  tree.Hash
	Stage   time.Duration // from the header to the last byte on disk, hashed
	Swap    time.Duration // to make it visible
	Whole   bool          // the directory was exchanged, not one file
	Written int64         // bytes
}

// Code says why a patch was refused.
type Code byte

// Codes of [Refused].
const (
	OtherBase Code = 1 + iota // the agent has another tree: Have
	BadHash                   // Path's content is not what its entry says
	BadDelta                  // the same, and it came as a delta
	NoSpace                   // the disk is full
	BadPatch                  // the patch makes no sense; nothing was looked at
	Aborted                   // as asked
	Failed                    // something else
)

func (c Code) String() string {
	names := [...]string{"", "other base", "bad hash", "bad delta", "no space", "bad patch", "aborted", "failed"}
	if int(c) < len(names) && c > 0 {
		return names[c]
	}
	return fmt.Sprintf("code %d", byte(c))
}

// Refused says that a patch changed nothing and why.
type Refused struct {
	Code Code
	Path string
	Text string

	Change uint64
	Have   tree.Hash
	By     string // which client made that
}

// EventKind is the kind of an [Event].
type EventKind byte

// Kinds of [Event].
const (
	Started  EventKind = 1 + iota // Pid, Tree, After (since the order to stop the old one)
	BecameUp                      // Pid, After (since the start): it can serve
	Exited                        // Pid, Code or Signal, Pause, Output: ended by itself
	TreeIs                        // Tree, By: another client changed the tree
	Replaced                      // By: it was stopped and is not started again until By leaves
)

// Event is something that happened to the process or, by another client, to the
// tree.
type Event struct {
	Kind   EventKind
	Pid    int
	Code   int
	Signal int
	After  time.Duration
	Pause  time.Duration
	Change uint64
	Tree   tree.Hash
	By     string
	Output []byte // the last that it printed
}

// Named is an entry and its path.
type Named struct {
	Path  string
	Entry tree.Entry
}

// Encode returns the message's body.
func (m Hello) Encode() []byte {
	var e encoder
	e.uint(m.Version)
	e.string(m.Client)
	return e.b
}

// DecodeHello decodes a [Hello].
func DecodeHello(b []byte) (Hello, error) {
	d := decoder{b: b}
	m := Hello{Version: d.uint(), Client: d.string(maxText)}
	return m, d.end("hello")
}

// Encode returns the message's body.
func (m State) Encode() []byte {
	var e encoder
	e.uint(m.Version)
	e.string(m.Agent)
	e.string(m.Service)
	e.uint(m.Change)
	e.hash(m.Digest)
	e.hash(m.Source)
	e.int(m.Files)
	e.bool(m.Live)
	e.int(len(m.Clients))
	for _, c := range m.Clients {
		e.string(c)
	}
	p := m.Process
	e.byte(byte(p.Phase))
	e.int(p.Pid)
	e.int(p.Starts)
	e.int(p.Code)
	e.int(p.Signal)
	e.duration(p.Pause)
	e.hash(p.Tree)
	e.string(m.Problem)
	e.string(m.LastFrom)
	return e.b
}

// DecodeState decodes a [State]. Of an agent of another protocol version only
// Version is known.
func DecodeState(b []byte) (State, error) {
	d := decoder{b: b}
	m := State{Version: d.uint()}
	if d.err == nil && m.Version != Version {
		return m, nil
	}
	m.Agent, m.Service = d.string(maxText), d.string(maxText)
	m.Change, m.Digest, m.Source = d.uint(), d.hash(), d.hash()
	m.Files, m.Live = d.int(), d.bool()
	for range d.count(1) {
		m.Clients = append(m.Clients, d.string(maxText))
	}
	m.Process = Process{
		Phase: Phase(d.byte()), Pid: d.int(), Starts: d.int(), Code: d.int(), Signal: d.int(),
		Pause: d.duration(), Tree: d.hash(),
	}
	m.Problem, m.LastFrom = d.string(maxText), d.string(maxText)
	return m, d.end("state")
}

// Encode returns the message's body.
func (m TreeEnd) Encode() []byte {
	var e encoder
	e.uint(m.Change)
	e.hash(m.Digest)
	e.hash(m.Source)
	return e.b
}

// DecodeTreeEnd decodes a [TreeEnd].
func DecodeTreeEnd(b []byte) (TreeEnd, error) {
	d := decoder{b: b}
	m := TreeEnd{Change: d.uint(), Digest: d.hash(), Source: d.hash()}
	return m, d.end("end of tree")
}

// Encode returns the message's body.
func (m PatchHeader) Encode() []byte {
	var e encoder
	e.hash(m.Base)
	e.hash(m.Target)
	e.hash(m.Source)
	e.bool(m.Restart)
	e.byte(m.Encoding)
	e.int(m.Deletes)
	e.int(m.Puts)
	return e.b
}

// DecodePatchHeader decodes a [PatchHeader].
func DecodePatchHeader(b []byte) (PatchHeader, error) {
	d := decoder{b: b}
	m := PatchHeader{
		Base: d.hash(), Target: d.hash(), Source: d.hash(), Restart: d.bool(), Encoding: d.byte(),
		Deletes: d.int(), Puts: d.int(),
	}
	return m, d.end("patch")
}

// Encode returns the message's body.
func (m Applied) Encode() []byte {
	var e encoder
	e.uint(m.Change)
	e.hash(m.Digest)
	e.duration(m.Stage)
	e.duration(m.Swap)
	e.bool(m.Whole)
	e.uint(uint64(m.Written))
	return e.b
}

// DecodeApplied decodes an [Applied].
func DecodeApplied(b []byte) (Applied, error) {
	d := decoder{b: b}
	m := Applied{
		Change: d.uint(), Digest: d.hash(), Stage: d.duration(), Swap: d.duration(), Whole: d.bool(), Written: d.int64(),
	}
	return m, d.end("applied")
}

// Encode returns the message's body.
func (m Refused) Encode() []byte {
	var e encoder
	e.byte(byte(m.Code))
	e.string(m.Path)
	e.string(m.Text)
	e.uint(m.Change)
	e.hash(m.Have)
	e.string(m.By)
	return e.b
}

// DecodeRefused decodes a [Refused].
func DecodeRefused(b []byte) (Refused, error) {
	d := decoder{b: b}
	m := Refused{
		Code: Code(d.byte()), Path: d.string(maxPath), Text: d.string(maxText),
		Change: d.uint(), Have: d.hash(), By: d.string(maxText),
	}
	return m, d.end("refused")
}

// Encode returns the message's body.
func (m Event) Encode() []byte {
	var e encoder
	e.byte(byte(m.Kind))
	e.int(m.Pid)
	e.int(m.Code)
	e.int(m.Signal)
	e.duration(m.After)
	e.duration(m.Pause)
	e.uint(m.Change)
	e.hash(m.Tree)
	e.string(m.By)
	e.string(string(m.Output))
	return e.b
}

// DecodeEvent decodes an [Event].
func DecodeEvent(b []byte) (Event, error) {
	d := decoder{b: b}
	m := Event{
		Kind: EventKind(d.byte()), Pid: d.int(), Code: d.int(), Signal: d.int(), After: d.duration(),
		Pause: d.duration(), Change: d.uint(), Tree: d.hash(), By: d.string(maxText), Output: d.bytes(MaxFrame),
	}
	return m, d.end("event")
}

// AppendEntry appends an entry to the body of a [KindEntries] frame.
func AppendEntry(b []byte, path string, t tree.Entry) []byte {
	e := encoder{b: b}
	e.string(path)
	e.entry(t)
	return e.b
}

// DecodeEntries calls f with each entry of a [KindEntries] frame.
func DecodeEntries(b []byte, f func(path string, t tree.Entry) error) error {
	d := decoder{b: b}
	for len(d.b) > 0 {
		path, t := d.string(maxPath), d.entry()
		if d.err != nil {
			return d.end("entries")
		}
		if err := f(path, t); err != nil {
			return err
		}
	}
	return nil
}

func (e *encoder) entry(t tree.Entry) {
	e.uint(uint64(t.Mode))
	switch {
	case t.Mode&fs.ModeSymlink != 0:
		e.string(t.Link)
	case t.Mode.IsRegular():
		e.uint(uint64(t.Size))
		e.hash(t.Hash)
	}
}

func (d *decoder) entry() tree.Entry {
	m := d.uint()
	t := tree.Entry{Mode: fs.FileMode(m)}
	if m > 1<<32-1 || t.Mode&^(fs.ModeDir|fs.ModeSymlink|fs.ModePerm) != 0 || t.Mode.Type() == fs.ModeDir|fs.ModeSymlink {
		d.fail("mode %o", m)
	}
	switch {
	case t.Mode&fs.ModeSymlink != 0:
		t.Link = d.string(maxPath)
	case t.Mode.IsRegular():
		t.Size, t.Hash = d.int64(), d.hash()
	}
	return t
}

// ZstdWindow is the largest window of a [Zstd] content, so that an agent needs
// little memory for it.
const ZstdWindow = 512 << 10
