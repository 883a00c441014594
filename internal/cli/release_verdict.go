package cli

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/api/v1alpha1"
	change "github.com/bightdev/bight/internal/change/client"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/client"
	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
	"github.com/bightdev/bight/internal/ui/term"
)

// verdictFlags are those of bight release verdict.
type verdictFlags struct {
	releaseFlags
	log, save string
	alpha     float64
	maxErrors string
}

func (p *Program) releaseVerdictCommand() *cobra.Command {
	var f verdictFlags
	c := &cobra.Command{
		Use:   "verdict [NAME]",
		Short: "Show how a verdict came about, and compute it again",
		Long: `Show what the judge of a release was told and what that made of E, the evidence
against the version, and compute the verdict again here. All that it rests on is in the
judge's log, which the controller keeps for a week: if the log leads to anything else
than what the judge has said, byte for byte, the exit code is 1, and the error says what.
Where a node agent has convicted the version, its log is there, too.

--save writes the log to a file, which --log reads, without a cluster.

--alpha and --max-errors tell what the verdict would have been: with another probability
of convicting a healthy version, or with another percentage of errors that must be
excluded before a version is good.`,
		Example: `  bight release verdict cart
  bight release verdict cart --alpha 0.01
  bight release verdict cart --save cart.log
  bight release verdict --log cart.log -o json`,
		Args: atMost(1, "one name: of a deployment, or of a release"),
		RunE: func(c *cobra.Command, args []string) error {
			return p.verdict(c.Context(), &f, args)
		},
		ValidArgsFunction: completeReleases(&f.target),
	}
	f.flags(p, c)
	c.Flags().StringVar(&f.log, "log", "", "read the log from a file that --save has written, instead of asking the controller")
	c.Flags().StringVar(&f.save, "save", "", "write the log to this file; compressed if its name ends in .gz")
	c.Flags().Float64Var(&f.alpha, "alpha", 0, "what would be if a healthy version were convicted with this probability (it is 0.001)")
	c.Flags().StringVar(&f.maxErrors, "max-errors", "", "what would be if this percentage of errors had to be excluded")
	return c
}

// shownVerdict is what bight release verdict finds.
type shownVerdict struct {
	Release string        `json:"release,omitempty"`
	Judges  []shownCourse `json:"judges"`
}

// shownCourse is what the log of one judge leads to.
type shownCourse struct {
	Judge string `json:"judge"`
	Same  bool   `json:"same"`
	verdict.Course
	WhatIf *verdict.Verdict `json:"whatIf,omitempty"`
}

// vary is what is to be another of a judge, nil for nothing.
func (f *verdictFlags) vary() (func(*verdict.Config), error) {
	if f.alpha < 0 || f.alpha >= 1 {
		return nil, usageError("--alpha %v: give a probability between 0 and 1, without either", f.alpha)
	}
	var errs release.Weight
	if f.maxErrors != "" {
		var err error
		if errs, err = release.ParseWeight(f.maxErrors); err != nil || errs <= 0 || errs >= release.All {
			return nil, usageError("--max-errors %s: give a percentage between 0 and 100, without either", f.maxErrors)
		}
	}
	if f.alpha == 0 && errs == 0 {
		return nil, nil
	}
	return func(c *verdict.Config) {
		if f.alpha > 0 { // each judge has its share of it
			c.Alpha *= f.alpha / spec.Alpha
		}
		if errs > 0 {
			c.MaxErrors = float64(errs) / float64(release.All)
		}
	}, nil
}

func (p *Program) verdict(ctx context.Context, f *verdictFlags, args []string) error {
	vary, err := f.vary()
	switch {
	case err != nil:
		return err
	case len(args) == 0 && f.log == "":
		return usageError("bight release verdict: name a release or a Deployment, or give --log FILE; bight release history lists them")
	case len(args) > 0 && f.log != "":
		return usageError("--log is instead of a name: leave out %s, or --log", args[0])
	}
	var of *v1alpha1.Release
	var text []byte
	printer := p.printer(f.output == "json", nil)
	defer printer.Close()
	if f.log != "" {
		text, err = readLog(f.log)
	} else {
		of, text, err = p.recordOf(ctx, f, args[0], printer)
	}
	if err != nil {
		return err
	}
	if f.save != "" {
		if err := saveLog(f.save, text); err != nil {
			return err
		}
	}
	all, err := judged(text, vary)
	if err != nil {
		return err
	}
	if of != nil {
		all.Release = of.Name
		all.agrees(of)
	}
	if err := p.showVerdict(printer, f, all); err != nil {
		return err
	}
	return all.wrong()
}

// kept asks the controller what it keeps of the newest release that has any, of those that a name
// means. Where none has, it is nil, and all are what was asked about.
func (p *Program) kept(ctx context.Context, t *target, name string, printer *term.Printer, read func(*change.Client, *v1alpha1.Release) error) (of *v1alpha1.Release, all []v1alpha1.Release, err error) {
	if err := t.check(); err != nil {
		return nil, nil, err
	}
	cluster, _, err := t.load(printer)
	if err != nil {
		return nil, nil, err
	}
	t.log(p.Stderr)
	rc, err := client.New(cluster)
	if err != nil {
		return nil, nil, err
	}
	if all, err = rc.Of(ctx, name); err != nil {
		return nil, nil, releaseError(err)
	}
	to := controllerClient(cluster, rc.Namespace())
	if err := to.Open(ctx); err != nil {
		return nil, nil, err
	}
	defer to.Close()
	for i := range all {
		err := read(to, &all[i])
		if errors.Is(err, evidence.ErrNone) {
			continue
		}
		return &all[i], all, err
	}
	return nil, all, nil
}

// recordOf asks the controller for the newest record of what a name means.
func (p *Program) recordOf(ctx context.Context, f *verdictFlags, name string, printer *term.Printer) (*v1alpha1.Release, []byte, error) {
	var text []byte
	of, all, err := p.kept(ctx, &f.target, name, printer, func(to *change.Client, r *v1alpha1.Release) (err error) {
		text, err = to.Record(ctx, r.Namespace, r.Name)
		return err
	})
	if err == nil && of == nil {
		err = codedError{code: exitNotFound, err: fmt.Errorf("there is no log of what %s in namespace %s was judged by: it is kept for a week from the release's beginning, unless the plan says evidence: {off: true}", name, all[0].Namespace)}
	}
	return of, text, err
}

var packed = []byte{0x1f, 0x8b} // how what gzip has made begins

func readLog(name string) ([]byte, error) {
	text, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, codedError{code: exitNotFound, err: fmt.Errorf("there is no file %s: bight release verdict NAME --save writes one", name)}
	}
	if err == nil && bytes.HasPrefix(text, packed) {
		var z *gzip.Reader
		if z, err = gzip.NewReader(bytes.NewReader(text)); err == nil {
			text, err = io.ReadAll(z)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	return text, nil
}

func saveLog(name string, text []byte) error {
	if strings.HasSuffix(name, ".gz") {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		_, err := z.Write(text)
		if err = errors.Join(err, z.Close()); err != nil {
			return fmt.Errorf("write the log: %w", err)
		}
		text = out.Bytes()
	}
	if err := os.WriteFile(name, text, 0o644); err != nil {
		return fmt.Errorf("write the log: %w", err)
	}
	return nil
}

// judged computes again what the judges of a record have said.
func judged(text []byte, vary func(*verdict.Config)) (*shownVerdict, error) {
	var r verdict.Record
	if err := r.UnmarshalText(text); err != nil {
		return nil, fmt.Errorf("%w: is it a file that bight release verdict --save has written?", err)
	}
	out := &shownVerdict{}
	names, of := r.Judges()
	for _, name := range names {
		c, err := of[name].Replay(nil)
		if err != nil {
			return nil, fmt.Errorf("judge %s: %w", name, err)
		}
		shown := shownCourse{Judge: name, Same: c.Same(), Course: c}
		if vary != nil {
			other, err := of[name].Replay(vary)
			if err != nil {
				return nil, fmt.Errorf("judge %s, varied: %w", name, err)
			}
			shown.WhatIf = &other.Verdict
		}
		out.Judges = append(out.Judges, shown)
	}
	return out, nil
}

// agrees compares the verdict with that in the release's status, where it is final.
func (s *shownVerdict) agrees(r *v1alpha1.Release) {
	v := r.Status.Verdict
	for i := range s.Judges {
		c := &s.Judges[i]
		if v == nil || strings.HasPrefix(c.Judge, "node ") || c.Verdict.Is != verdict.Bad || c.Verdict.Why == v.Why {
			continue
		}
		c.Same = false
		c.Differs = append(c.Differs, fmt.Sprintf("the status of release %s says %q, and its log leads to %q", r.Name, v.Why, c.Verdict.Why))
	}
}

// wrong is an error if something was not the same.
func (s *shownVerdict) wrong() error {
	for _, c := range s.Judges {
		if len(c.Differs) > 0 {
			return fmt.Errorf("the log of %s leads to something else than what the judge has said, so one of both was changed or cut, or made by another version of bight: %s", c.Judge, c.Differs[0])
		}
	}
	return nil
}

// shownPoints is about how many points of E's path are shown, and toldPoints in JSON.
const shownPoints, toldPoints = 14, 500

func (p *Program) showVerdict(printer *term.Printer, f *verdictFlags, all *shownVerdict) error {
	if f.output == "json" {
		for i := range all.Judges {
			all.Judges[i].Points = verdict.Thin(all.Judges[i].Points, toldPoints)
		}
		return printer.Data(all, nil)
	}
	for i, c := range all.Judges {
		if i > 0 {
			fmt.Fprintln(p.Stdout)
		}
		printer.Note("", strings.TrimSpace(all.Release+" judged by "+judgeText(c.Judge)+": "+string(c.Verdict.Is)+": "+release.Plain(c.Verdict.Why)))
		if err := printer.Data(nil, pathTable(c.Course)); err != nil {
			return err
		}
		for _, line := range courseNotes(c, f) {
			printer.Note("", line)
		}
	}
	if f.save != "" {
		printer.Note("", "the log is in "+f.save)
	}
	return nil
}

// judgeText is a judge in a sentence.
func judgeText(judge string) string {
	if judge == "controller" {
		return "the controller"
	}
	return judge
}

// courseNotes tell what the log is worth, and what would have been.
func courseNotes(c shownCourse, f *verdictFlags) (lines []string) {
	text := "computed again here from " + term.Count(c.Observations, "observation") + ": "
	switch {
	case len(c.Differs) > 0:
		text += "not the same"
	case c.Same:
		text += "the same, byte for byte"
	default:
		text += "the judge has said nothing yet that it could be compared with"
	}
	lines = append(lines, text)
	if c.From > 0 {
		lines = append(lines, fmt.Sprintf("the log is cut: it begins after %d observations, with what they had come to", c.From))
	}
	if c.Lost > 0 {
		lines = append(lines, fmt.Sprintf("%d observations are missing in the middle: the log goes on with what they had come to", c.Lost))
	}
	if v := c.WhatIf; v != nil {
		var with []string
		if f.alpha > 0 {
			with = append(with, fmt.Sprintf("--alpha %v", f.alpha))
		}
		if f.maxErrors != "" {
			with = append(with, "--max-errors "+f.maxErrors)
		}
		lines = append(lines, fmt.Sprintf("with %s: %s: %s%s", strings.Join(with, " "), v.Is, release.Plain(v.Why), sooner(c.Verdict, *v)))
	}
	return lines
}

// sooner says how much, where both have come to the same verdict.
func sooner(is, other verdict.Verdict) string {
	by := is.After - other.After
	switch {
	case is.Is != other.Is || is.Is != verdict.Bad && is.Is != verdict.Good || by.Abs() < time.Millisecond:
		return ""
	case by > 0:
		return "; " + term.Duration(by) + " sooner"
	}
	return "; " + term.Duration(-by) + " later"
}

// pathTable is E's path.
func pathTable(c verdict.Course) *term.Table {
	t := &term.Table{Head: []string{"TIME", "CANARY", "STABLE", "E BAD", "E GOOD", "VERDICT", "MOVED MOST BY"}, Empty: "nothing has been observed"}
	is := verdict.Kind("")
	points := verdict.Thin(c.Points, shownPoints)
	copies := slices.ContainsFunc(points, func(p verdict.Point) bool { return p.Copies.Requests+p.Copies.Errors > 0 })
	if copies {
		t.Head = slices.Insert(t.Head, 3, "COPIES")
	}
	for _, p := range points {
		said := ""
		if p.Is != is {
			said, is = string(p.Is), p.Is
		}
		row := []string{"+" + term.Duration(p.After), sideText(p.Canary), sideText(p.Stable), eText(p.E), eText(p.Good), said, moveText(p.Moves)}
		if copies {
			row = slices.Insert(row, 3, sideText(p.Copies))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func eText(e float64) string {
	if e >= 0.01 && e < 1e5 {
		return fmt.Sprintf("%.*f", max(0, 2-int(math.Log10(max(e, 1)))), e)
	}
	return fmt.Sprintf("%.3g", e)
}

func sideText(s verdict.Side) string {
	text := fmt.Sprint(s.Requests)
	if s.Errors > 0 {
		text += ", " + plural(s.Errors, "error")
	}
	if s.Slow > 0 {
		text += fmt.Sprintf(", %d slow", s.Slow)
	}
	return text
}

// moveText is what has moved E most, and what it was multiplied by.
func moveText(moves []verdict.Move) string {
	if len(moves) == 0 {
		return ""
	}
	m := moves[0]
	text := m.What
	if m.N == 1 {
		text = strings.NewReplacer("errors of copies", "error of a copy", "slow copies", "slow copy", "errors of", "error of", "requests", "request", "events", "event", "guards", "guard", "clients", "client").Replace(text)
	}
	if m.N > 0 {
		text = fmt.Sprintf("%d %s", m.N, text)
	}
	if by := math.Exp(m.By); math.Abs(m.By) >= 0.005 {
		text += " (E × " + eText(by) + ")"
	}
	return text
}
