package sarif

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"path"
	"path/filepath"
	"strings"

	"github.com/bightdev/bight/internal/change/review"
)

// Decode reads a document that another program wrote. Absolute paths are taken to
// be below dir, which may be "" if there are none. Results that the program marks
// as passed or suppressed are left out; what it says went wrong with its run comes
// back as not checked. Of each finding, [review.Finding.Why] is set only if a
// review wrote it.
func Decode(r io.Reader, dir string) (review.Result, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return review.Result{}, fmt.Errorf("read SARIF: %w", err)
	}
	var log Log
	if err := json.Unmarshal(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")), &log); err != nil {
		return review.Result{}, fmt.Errorf("read SARIF: %w", err)
	}
	if log.Version != version {
		return review.Result{}, fmt.Errorf("read SARIF: the version is %q, and only %s is understood", log.Version, version)
	}
	var res review.Result
	for i := range log.Runs {
		log.Runs[i].read(dir, &res)
	}
	return res, nil
}

func (r *Run) read(dir string, into *review.Result) {
	tool := r.Tool.Driver.Name
	for _, x := range r.Results {
		rule := r.ruleOf(x)
		sev, ok := severity(x.Level, rule)
		if !ok || x.Kind != "" && x.Kind != "fail" && x.Kind != "review" || len(x.Suppressions) > 0 {
			continue
		}
		f := review.Finding{
			Rule: x.RuleID, Tool: tool, Severity: sev, Message: x.Message.text(rule), Fingerprint: x.PartialFingerprints[fingerprint],
		}
		if rule != nil {
			f.Rule, f.URL = rule.ID, rule.HelpURI
		}
		if x.Properties != nil {
			f.Object, f.Why = x.Properties.Object, x.Properties.Why
		}
		if len(x.Locations) > 0 {
			p := x.Locations[0].PhysicalLocation
			f.File = r.file(p.ArtifactLocation, dir)
			if p.Region != nil {
				f.Line, f.Column, f.EndLine, f.EndColumn = p.Region.lines()
			}
		}
		for _, y := range x.Fixes {
			if z, ok := r.fix(y, dir); ok {
				f.Fixes = append(f.Fixes, z)
			}
		}
		into.Findings = append(into.Findings, f)
	}
	for _, inv := range r.Invocations {
		said := false
		for _, n := range inv.Notifications {
			if n.Level == "error" || n.Level == "warning" || n.Level == "" {
				said = true
				into.Unchecked = append(into.Unchecked, review.Unchecked{Tool: tool, Why: n.Message.text(nil)})
			}
		}
		if !inv.ExecutionSuccessful && !said {
			into.Unchecked = append(into.Unchecked, review.Unchecked{Tool: tool, Why: "the tool says that its run failed, and not why"})
		}
	}
}

// ruleOf returns the rule of a result, if the run describes it.
func (r *Run) ruleOf(x Result) *Rule {
	rules := r.Tool.Driver.Rules
	index, id := x.RuleIndex, x.RuleID
	if x.Rule != nil {
		if index == nil {
			index = x.Rule.Index
		}
		if id == "" {
			id = x.Rule.ID
		}
	}
	if index != nil && *index >= 0 && *index < len(rules) {
		return &rules[*index]
	}
	for i := range rules {
		if rules[i].ID == id {
			return &rules[i]
		}
	}
	if id != "" {
		return &Rule{ID: id}
	}
	return nil
}

// file returns the path of an artifact relative to the checkout, slash separated.
func (r *Run) file(a ArtifactLocation, dir string) string {
	u, err := url.Parse(a.URI)
	if err != nil {
		return a.URI
	}
	p := u.Path
	if u.Scheme != "" && u.Scheme != "file" {
		return a.URI
	}
	if base, ok := r.OriginalURIBaseIDs[a.URIBaseID]; ok && !path.IsAbs(p) {
		if b, err := url.Parse(base.URI); err == nil && b.Scheme == "file" {
			p = path.Join(b.Path, p)
		}
	}
	if dir != "" && path.IsAbs(p) {
		if rel, err := filepath.Rel(dir, filepath.FromSlash(p)); err == nil {
			p = filepath.ToSlash(rel)
		}
	}
	return strings.TrimPrefix(p, "./")
}

// lines returns a region's four numbers; an end that the format leaves out is the start.
func (r *Region) lines() (line, column, endLine, endColumn int) {
	line, column, endLine, endColumn = max(0, r.StartLine), max(0, r.StartColumn), max(0, r.EndLine), max(0, r.EndColumn)
	if endLine == 0 && endColumn > 0 {
		endLine = line
	}
	return line, column, endLine, endColumn
}

func (r *Run) fix(x Fix, dir string) (review.Fix, bool) {
	var out review.Fix
	if x.Description != nil {
		out.Message = x.Description.text(nil)
	}
	for _, c := range x.ArtifactChanges {
		file := r.file(c.ArtifactLocation, dir)
		for _, rep := range c.Replacements {
			d := rep.DeletedRegion
			if d.StartLine < 1 {
				return out, false // by offsets: nobody can say which text without the file
			}
			e := review.Edit{File: file, Line: d.StartLine, Column: max(1, d.StartColumn), EndLine: max(d.EndLine, d.StartLine), EndColumn: d.EndColumn}
			if rep.InsertedContent != nil {
				e.New = rep.InsertedContent.Text
			}
			out.Edits = append(out.Edits, e)
		}
	}
	return out, len(out.Edits) > 0
}
