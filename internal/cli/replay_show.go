package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/bightdev/bight/internal/release/client"
	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/ui/term"
)

// headline says what evidence is about, in one line.
func headline(b *evidence.Bundle, now time.Time) string {
	text := b.Release
	if b.Version != "" {
		text += " (" + b.Version + ")"
	}
	if !b.Time.IsZero() {
		text += ", undone " + term.Duration(now.Sub(b.Time)) + " ago"
	}
	if b.Why != "" {
		text += ": " + joined(b.Why)
	}
	return text
}

// showEvidence prints what is known of a release that was undone.
func (p *Program) showEvidence(printer *term.Printer, b *evidence.Bundle, asJSON bool) error {
	if asJSON {
		return printer.Data(b, nil)
	}
	if err := printer.Data(nil, factsTable(b, time.Now())); err != nil {
		return err
	}
	fmt.Fprintln(p.Stdout)
	if err := printer.Data(nil, pairsTable(b)); err != nil {
		return err
	}
	fmt.Fprintln(p.Stdout)
	for _, pod := range b.Pods {
		if pod.Log == "" {
			continue
		}
		lines := strings.Split(strings.TrimRight(pod.Log, "\n"), "\n")
		if n := len(lines) - shownLog; n > 0 {
			lines = append([]string{fmt.Sprintf("(%d lines before; all are in -o json)", n)}, lines[n:]...)
		}
		printer.Log(pod.Name, strings.Join(lines, "\n"))
		break // of one pod: the others mostly say the same
	}
	if len(b.Pairs) > 0 {
		printer.Note("", fmt.Sprintf("bight replay %s -- COMMAND asks the code here the same things", b.Release))
	}
	return nil
}

// shownLog is how many lines of a pod's log are shown.
const shownLog = 12

func factsTable(b *evidence.Bundle, now time.Time) *term.Table {
	t := &term.Table{Head: []string{"RELEASE", b.Release}}
	add := func(name, text string) {
		if text != "" {
			t.Rows = append(t.Rows, []string{name, text})
		}
	}
	add("deployment", b.Deployment+" in "+b.Namespace)
	add("version", b.Version)
	add("change", b.Change)
	if !b.Time.IsZero() {
		add("undone", term.Duration(now.Sub(b.Time))+" ago")
	}
	add("why", joined(b.Why))
	if n := len(b.Path); n > 1 && !strings.HasPrefix(b.Why, "E = ") {
		last := b.Path[n-1]
		add("evidence", fmt.Sprintf("E = %s, abort at %s, after %s of %s in %s", b.E, b.AbortAt, plural(last.Errors, "error"),
			plural(last.Requests, "request"), term.Duration(last.Time.Sub(b.Path[0].Time))))
	}
	versions := func(v evidence.Version) string {
		return strings.TrimSpace(client.Short(v.Image) + " " + v.Commit[:min(len(v.Commit), 12)])
	}
	add("stable", versions(b.Stable))
	add("canary", versions(b.Canary))
	for i, d := range b.Differs {
		name := ""
		if i == 0 {
			name = "differs"
		}
		t.Rows = append(t.Rows, []string{name, d})
	}
	for i, p := range b.Pods {
		text := p.Name
		if p.Restarts > 0 {
			text += fmt.Sprintf(", %s", plural(int64(p.Restarts), "restart"))
		}
		if p.Last != "" {
			text += ", ended: " + p.Last
		}
		if !p.Ready {
			text += ", not ready"
		}
		name := ""
		if i == 0 {
			name = "pods"
		}
		t.Rows = append(t.Rows, []string{name, text})
	}
	return t
}

// pairsTable lists the requests.
func pairsTable(b *evidence.Bundle) *term.Table {
	t := &term.Table{Head: []string{"REQUEST", "BY", "ANSWER", "TOOK", "STABLE", "WHY"}, Empty: "nothing was kept of requests"}
	moved := map[string]bool{}
	for _, id := range b.Moved {
		moved[id] = true
	}
	for _, p := range b.Pairs {
		answer, stable, why := "", "", p.Why
		if p.Answer != nil {
			answer = fmt.Sprint(p.Answer.Status)
		}
		if len(p.Stable) > 0 {
			stable = fmt.Sprint(p.Stable[0].Status)
		}
		mark := ""
		switch {
		case moved[p.ID]:
			mark = "✗ "
		case p.Class != evidence.Sample:
			mark = "! "
		}
		t.Rows = append(t.Rows, []string{mark + p.Name(), p.Version, answer, term.Duration(p.Elapsed), stable, why})
	}
	return t
}
