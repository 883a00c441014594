// Package sarif carries findings between a review and other programs, in the
// Static Analysis Results Interchange Format, version 2.1.0. Its functions are
// [Encode] and [Decode]; the document is [Log].
//
// It has no state.
package sarif

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/bightdev/bight/internal/change/review"
)

// Names that a document of ours uses.
const (
	version     = "2.1.0"
	schema      = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
	root        = "%SRCROOT%"
	fingerprint = "bight/v1"
)

// Log is a SARIF document; it has those of the format's properties that we write or read.
type Log struct {
	Schema  string `json:"$schema,omitempty"`
	Version string `json:"version"`
	Runs    []Run  `json:"runs"`
}

// Run is what one tool said.
type Run struct {
	Tool               Tool                        `json:"tool"`
	Invocations        []Invocation                `json:"invocations,omitempty"`
	Results            []Result                    `json:"results"`
	ColumnKind         string                      `json:"columnKind,omitempty"`
	OriginalURIBaseIDs map[string]ArtifactLocation `json:"originalUriBaseIds,omitempty"`
}

// Tool names a program and its rules.
type Tool struct {
	Driver Component `json:"driver"`
}

// Component is a program.
type Component struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Rules   []Rule `json:"rules,omitempty"`
}

// Rule is something that a tool looks for.
type Rule struct {
	ID                   string             `json:"id"`
	HelpURI              string             `json:"helpUri,omitempty"`
	DefaultConfiguration *Configuration     `json:"defaultConfiguration,omitempty"`
	MessageStrings       map[string]Message `json:"messageStrings,omitempty"`
}

// Configuration says how bad a rule's findings are.
type Configuration struct {
	Level string `json:"level,omitempty"`
}

// Invocation says how a tool's run went.
type Invocation struct {
	ExecutionSuccessful bool           `json:"executionSuccessful"`
	Notifications       []Notification `json:"toolExecutionNotifications,omitempty"`
}

// Notification is something that a tool says about its run.
type Notification struct {
	Level   string  `json:"level,omitempty"`
	Message Message `json:"message"`
}

// Message is a text, or the name of one of the rule's.
type Message struct {
	Text      string   `json:"text,omitempty"`
	ID        string   `json:"id,omitempty"`
	Arguments []string `json:"arguments,omitempty"`
}

// Result is one finding.
type Result struct {
	RuleID              string            `json:"ruleId,omitempty"`
	RuleIndex           *int              `json:"ruleIndex,omitempty"`
	Rule                *RuleReference    `json:"rule,omitempty"`
	Kind                string            `json:"kind,omitempty"`
	Level               string            `json:"level,omitempty"`
	Message             Message           `json:"message"`
	Locations           []Location        `json:"locations,omitempty"`
	PartialFingerprints map[string]string `json:"partialFingerprints,omitempty"`
	Fixes               []Fix             `json:"fixes,omitempty"`
	Suppressions        []json.RawMessage `json:"suppressions,omitempty"`
	Properties          *Properties       `json:"properties,omitempty"`
}

// RuleReference names a rule of a Result.
type RuleReference struct {
	ID    string `json:"id,omitempty"`
	Index *int   `json:"index,omitempty"`
}

// Properties are what a Finding says and the format has no word for.
type Properties struct {
	Object string `json:"bightObject,omitempty"`
	Why    string `json:"bightWhy,omitempty"`
}

// Location is a place in a file.
type Location struct {
	PhysicalLocation PhysicalLocation `json:"physicalLocation"`
}

// PhysicalLocation is a place in a file.
type PhysicalLocation struct {
	ArtifactLocation ArtifactLocation `json:"artifactLocation"`
	Region           *Region          `json:"region,omitempty"`
}

// ArtifactLocation is a file.
type ArtifactLocation struct {
	URI       string `json:"uri,omitempty"`
	URIBaseID string `json:"uriBaseId,omitempty"`
}

// Region is a stretch of a file; lines and columns count from 1 and the end is exclusive.
type Region struct {
	StartLine   int `json:"startLine,omitempty"`
	StartColumn int `json:"startColumn,omitempty"`
	EndLine     int `json:"endLine,omitempty"`
	EndColumn   int `json:"endColumn,omitempty"`
}

// Fix is one way to put a finding right.
type Fix struct {
	Description     *Message         `json:"description,omitempty"`
	ArtifactChanges []ArtifactChange `json:"artifactChanges"`
}

// ArtifactChange is what a Fix does to one file.
type ArtifactChange struct {
	ArtifactLocation ArtifactLocation `json:"artifactLocation"`
	Replacements     []Replacement    `json:"replacements"`
}

// Replacement replaces one region.
type Replacement struct {
	DeletedRegion   Region   `json:"deletedRegion"`
	InsertedContent *Message `json:"insertedContent,omitempty"`
}

// Encode writes a report: one run for each tool, in the order of its checks, and
// what was not checked as notifications.
func Encode(w io.Writer, rep *review.Report) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(FromReport(rep)); err != nil {
		return fmt.Errorf("write SARIF: %w", err)
	}
	return nil
}

// FromReport makes a document of a report.
func FromReport(rep *review.Report) *Log {
	log := &Log{Schema: schema, Version: version, Runs: []Run{}}
	at := map[string]int{}
	run := func(tool string) *Run {
		i, ok := at[tool]
		if !ok {
			i = len(log.Runs)
			at[tool] = i
			log.Runs = append(log.Runs, Run{
				Tool: Tool{Driver: Component{Name: tool}}, Results: []Result{}, ColumnKind: "unicodeCodePoints",
				Invocations: []Invocation{{ExecutionSuccessful: true}},
			})
		}
		return &log.Runs[i]
	}
	for _, c := range rep.Checks {
		run(c.Tool).Invocations[0].ExecutionSuccessful = c.Failed == ""
	}
	for _, f := range rep.Findings {
		r := run(f.Tool)
		r.Results = append(r.Results, result(f, r.rule(f)))
	}
	for _, u := range rep.Unchecked {
		text := "not checked: " + u.Why
		if u.What != "" {
			text = u.What + ": " + text
		}
		inv := &run(u.Tool).Invocations[0]
		inv.Notifications = append(inv.Notifications, Notification{Level: "warning", Message: Message{Text: text}})
	}
	return log
}

// rule returns the index of a finding's rule among those of the run's tool.
func (r *Run) rule(f review.Finding) int {
	rules := &r.Tool.Driver.Rules
	i := slices.IndexFunc(*rules, func(x Rule) bool { return x.ID == f.Rule })
	if i < 0 {
		i = len(*rules)
		*rules = append(*rules, Rule{ID: f.Rule, HelpURI: f.URL})
	}
	return i
}

func result(f review.Finding, rule int) Result {
	r := Result{
		RuleID: f.Rule, RuleIndex: &rule, Level: string(f.Severity), Message: Message{Text: f.Message},
	}
	if f.Fingerprint != "" {
		r.PartialFingerprints = map[string]string{fingerprint: f.Fingerprint}
	}
	if f.Object != "" || f.Why != "" {
		r.Properties = &Properties{Object: f.Object, Why: f.Why}
	}
	if f.File != "" {
		p := PhysicalLocation{ArtifactLocation: artifact(f.File)}
		if f.Line > 0 {
			p.Region = &Region{StartLine: f.Line, StartColumn: f.Column, EndLine: f.EndLine, EndColumn: f.EndColumn}
		}
		r.Locations = []Location{{p}}
	}
	for _, x := range f.Fixes {
		r.Fixes = append(r.Fixes, fix(x))
	}
	return r
}

func fix(x review.Fix) Fix {
	out := Fix{Description: &Message{Text: x.Message}, ArtifactChanges: []ArtifactChange{}}
	for _, e := range x.Edits {
		where := artifact(e.File)
		i := slices.IndexFunc(out.ArtifactChanges, func(c ArtifactChange) bool { return c.ArtifactLocation == where })
		if i < 0 {
			i = len(out.ArtifactChanges)
			out.ArtifactChanges = append(out.ArtifactChanges, ArtifactChange{ArtifactLocation: where})
		}
		c := &out.ArtifactChanges[i]
		c.Replacements = append(c.Replacements, Replacement{
			DeletedRegion:   Region{StartLine: e.Line, StartColumn: e.Column, EndLine: e.EndLine, EndColumn: e.EndColumn},
			InsertedContent: &Message{Text: e.New},
		})
	}
	return out
}

func artifact(file string) ArtifactLocation {
	// A colon in the first segment would read as a scheme; String adds "./" then.
	return ArtifactLocation{URI: (&url.URL{Path: file}).String(), URIBaseID: root}
}

// severity reads a result's level: its own, its rule's, or the format's default.
func severity(level string, rule *Rule) (review.Severity, bool) {
	if level == "" && rule != nil && rule.DefaultConfiguration != nil {
		level = rule.DefaultConfiguration.Level
	}
	switch level {
	case "error":
		return review.Error, true
	case "note":
		return review.Note, true
	case "", "warning":
		return review.Warning, true
	}
	return "", false // "none"
}

// maxText is how much of a message is kept.
const maxText = 8 << 10

// text returns what a message says. Arguments are put in once: what they hold is
// not looked at again, so that a document can't grow without end.
func (m Message) text(rule *Rule) string {
	t := m.Text
	if t == "" && rule != nil {
		t = rule.MessageStrings[m.ID].Text
	}
	var b strings.Builder
	for t != "" && b.Len() < maxText {
		open := strings.IndexByte(t, '{')
		if open < 0 || len(m.Arguments) == 0 {
			b.WriteString(t)
			break
		}
		b.WriteString(t[:open])
		t = t[open:]
		number, rest, closed := strings.Cut(t[1:], "}")
		if i, err := strconv.Atoi(number); closed && err == nil && i >= 0 && i < len(m.Arguments) {
			b.WriteString(m.Arguments[i])
			t = rest
			continue
		}
		b.WriteByte('{')
		t = t[1:]
	}
	if b.Len() > maxText {
		return strings.ToValidUTF8(b.String()[:maxText], "") + "…"
	}
	return b.String()
}
