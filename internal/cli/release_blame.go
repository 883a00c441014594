package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/internal/release/config"
	"github.com/bightdev/bight/internal/replay"
	"github.com/bightdev/bight/internal/ui/term"
)

func (p *Program) releaseBlameCommand() *cobra.Command {
	var f replayFlags
	var good, bad string
	c := &cobra.Command{
		Use:   "blame RELEASE|FILE [flags] -- COMMAND [ARG...]",
		Short: "Find the commit that convicted a release",
		Long: `Find the first commit at which a request that convicted a release fails: COMMAND is
run for some of the commits between the one that was stable and the one that was
released, as in bight replay, each in a checkout of its own below a temporary directory.
Nothing in this working tree is changed. It is run in the directory that corresponds to
this one. A commit at which it does not come to listen is passed over. With --recorded,
what it asks of other services is answered from a file, the same at each commit.`,
		Example: `  bight release blame cart -- go run ./cmd/cart
  bight release blame cart --good v1.4.0 -- go run ./cmd/cart`,
		RunE: func(c *cobra.Command, args []string) error {
			name, command, err := split(c, args)
			if err != nil {
				return err
			}
			if len(command) == 0 {
				return usageError("%s: name the command that runs the service, as in -- go run .", c.CommandPath())
			}
			return p.blame(c.Context(), &f, name, command, good, bad)
		},
		ValidArgsFunction: completeReleases(&f.target),
	}
	f.flags(p, c)
	c.Flags().StringVar(&good, "good", "", "commit at which the requests pass (default: that of what was stable)")
	c.Flags().StringVar(&bad, "bad", "", "commit at which they fail (default: that of the release)")
	return c
}

// unknownCommits says which of the two commits is to be given.
func unknownCommits(release, good, bad string) string {
	switch {
	case good == "" && bad == "":
		return fmt.Sprintf("it is not known which commits release %s is between, as it was not shipped by a change: give --good and --bad", release)
	case good == "":
		return fmt.Sprintf("it is not known which commit was stable before release %s, as no change has brought that: give --good", release)
	}
	return fmt.Sprintf("it is not known which commit release %s is of, as it was not shipped by a change: give --bad", release)
}

func (p *Program) blame(ctx context.Context, f *replayFlags, name string, command []string, good, bad string) error {
	s, err := p.stage(ctx, f, name, command)
	if err != nil {
		return err
	}
	defer s.printer.Close()
	s.quiet = true
	b := s.bundle
	if good == "" {
		good = b.Stable.Commit
	}
	if bad == "" {
		bad = b.Canary.Commit
	}
	if good == "" || bad == "" {
		return usageError("%s%s", unknownCommits(b.Release, good, bad), otherConfig(b.Differs))
	}
	commits, err := between(ctx, good, bad)
	if err != nil {
		return err
	}
	leave, err := s.set(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return s.blame(ctx, good, commits)
}

// variable is where in a pod template a variable is.
var variable = regexp.MustCompile(`^spec\.containers\[[^]]*\]\.env\[([^]]+)\]\.value: `)

// otherwise is what of a version's configuration differs, a line each: variables, ConfigMaps
// and Secrets.
func otherwise(differs []string) (lines []string) {
	for _, d := range differs {
		switch at := variable.FindStringSubmatch(d); {
		case at != nil:
			lines = append(lines, joined("variable "+at[1]+": "+d[len(at[0]):]))
		case strings.HasPrefix(d, config.ConfigMap+" "), strings.HasPrefix(d, config.Secret+" "):
			lines = append(lines, joined(d))
		}
	}
	return lines
}

// otherConfig names what of a version's configuration differs, lines of their own, "" for
// nothing: no commit is to blame for that.
func otherConfig(differs []string) string {
	text := ""
	for _, d := range otherwise(differs) {
		text += "\n" + d
	}
	if text != "" {
		text = "\nits configuration differs from stable's:" + text
	}
	return text
}

// commit is one that may be to blame.
type commit struct {
	Hash   string `json:"commit"`
	Title  string `json:"title"`
	Author string `json:"author"`
}

func (c commit) String() string { return c.Hash[:min(12, len(c.Hash))] + " " + c.Title }

// blame tries commits.
func (s *stage) blame(ctx context.Context, good string, commits []commit) error {
	asJSON := s.f.output == "json"
	s.printer.Note("", fmt.Sprintf("%s between what was stable and release %s", term.Count(len(commits), "commit"), s.bundle.Release))
	tell := func(c commit, is replay.Tried, why string) {
		words := map[replay.Tried]string{replay.IsGood: "passes", replay.IsBad: "fails", replay.IsUnknown: "can't be told"}
		s.printer.Note("", c.String()+": "+words[is]+parens(why))
	}
	try := func(i int) (replay.Tried, error) {
		is, why, err := s.try(ctx, commits[i].Hash)
		if err == nil {
			tell(commits[i], is, why)
		}
		return is, err
	}
	// What is assumed is seen first: that requests pass here at the good commit, and fail at
	// the last. Those that fail at the good one, too, tell nothing.
	if err := s.sift(ctx, good); err != nil {
		return err
	}
	last := commits[len(commits)-1]
	is, why, err := s.try(ctx, last.Hash)
	if err != nil {
		return err
	}
	tell(last, is, why)
	if err := s.mustFail(last, is, why); err != nil {
		return err
	}
	from, to, err := replay.Bisect(len(commits), try)
	switch {
	case errors.Is(err, replay.ErrUnclear):
		var some []string
		for _, c := range commits[from : to+1] {
			some = append(some, c.String())
		}
		return fmt.Errorf("it is one of these, of which all but the last can't be told: %s", strings.Join(some, "; "))
	case err != nil:
		return err
	}
	c := commits[from]
	if asJSON {
		return s.printer.Data(c, nil)
	}
	return s.printer.Data(nil, &term.Table{Head: []string{"FIRST THAT FAILS", "BY", "TITLE"}, Rows: [][]string{{c.Hash[:min(12, len(c.Hash))], c.Author, c.Title}}})
}

// mustFail says what it means if no request fails at the commit that was released.
func (s *stage) mustFail(released commit, is replay.Tried, why string) error {
	switch {
	case is == replay.IsBad:
		return nil
	case is == replay.IsUnknown && s.f.recorded != "":
		return fmt.Errorf("at %s, which was released, it can't be told: %s; bight replay %s --record %s records again", released, why, s.bundle.Release, s.f.recorded)
	case is == replay.IsUnknown:
		return fmt.Errorf("at %s, which was released, it can't be told: %s", released, why)
	}
	return fmt.Errorf("at %s, which was released, no request fails here: what convicted it does not come from the code alone (data, configuration, load); bight replay %s shows the evidence%s",
		released, s.bundle.Release, otherConfig(s.bundle.Differs))
}

// sift leaves the requests that pass at the good commit.
func (s *stage) sift(ctx context.Context, good string) error {
	all, why, err := s.playAt(ctx, good)
	switch {
	case err != nil:
		return err
	case why != "":
		return fmt.Errorf("nothing can be told of the good commit %s: %s; --good names another", good, why)
	}
	s.pairs = nil
	for _, r := range all {
		if r.State == replay.Passed {
			s.pairs = append(s.pairs, r.Pair)
		}
	}
	if len(s.pairs) > 0 {
		return nil
	}
	return fmt.Errorf("at the good commit %s no request passes here (%s: %s): what is missing may be a header that was hidden (--header), data, or --all", good, all[0].Name, all[0].Why)
}

// try plays at one commit.
func (s *stage) try(ctx context.Context, hash string) (is replay.Tried, why string, err error) {
	all, why, err := s.playAt(ctx, hash)
	if err != nil || why != "" {
		return replay.IsUnknown, why, err
	}
	is = replay.IsGood
	for _, r := range all {
		switch r.State {
		case replay.Failed:
			return replay.IsBad, r.Name + ": " + r.Why, nil
		case replay.Unclear:
			if is == replay.IsGood {
				is, why = replay.IsUnknown, r.Name+": "+r.Why
			}
		}
	}
	return is, why, nil
}

// playAt plays at one commit; why says why that can't be done there.
func (s *stage) playAt(ctx context.Context, hash string) (all []replay.Result, why string, err error) {
	dir, err := os.MkdirTemp("", "bight-blame-*")
	if err != nil {
		return nil, "", err
	}
	defer os.RemoveAll(dir)
	tree := filepath.Join(dir, "tree")
	if _, err := gitHere(ctx, "worktree", "add", "--quiet", "--detach", tree, hash); err != nil {
		return nil, "", err
	}
	defer func() {
		_, gone := gitHere(context.WithoutCancel(ctx), "worktree", "remove", "--force", tree)
		err = errors.Join(err, gone)
	}()
	below, err := gitHere(ctx, "rev-parse", "--show-prefix")
	if err != nil {
		return nil, "", err
	}
	s.order.Dir = filepath.Join(tree, filepath.FromSlash(below))
	if _, err := os.Stat(s.order.Dir); err != nil {
		return nil, "it has no directory " + below, nil
	}
	all, err = s.round(ctx, nil)
	var early *unreachedError
	switch {
	case errors.As(err, &early):
		return nil, early.Error(), nil
	case err != nil:
		return nil, "", err
	case len(all) == 0:
		return nil, "", context.Cause(ctx)
	}
	return all, "", nil
}

// between are the commits after good up to bad, the oldest first.
func between(ctx context.Context, good, bad string) ([]commit, error) {
	out, err := gitHere(ctx, "log", "--reverse", "--first-parent", "--format=%H%x00%an%x00%s", good+".."+bad)
	if err != nil {
		return nil, fmt.Errorf("%w; --good and --bad name commits that are in this repository (git fetch brings those of others)", err)
	}
	var all []commit
	for line := range strings.SplitSeq(out, "\n") {
		if parts := strings.SplitN(line, "\x00", 3); len(parts) == 3 {
			all = append(all, commit{Hash: parts[0], Author: parts[1], Title: parts[2]})
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("there is no commit after %s up to %s: --good names one that comes before --bad", good, bad)
	}
	return all, nil
}

// gitHere runs git in this directory and returns what it prints.
func gitHere(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimRight(string(out), "\n"), nil
}
