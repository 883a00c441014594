package host

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// maxBody is what every host takes in one comment.
const maxBody = 60_000

// The first line of each of our comments says which it is; hosts don't show it. Only the first: somebody
// who quotes a comment has it further below or behind a '>'.
const (
	markBegin   = "<!-- bight "
	markEnd     = " -->\n"
	summaryMark = "summary"
)

// mark returns the hidden line for a fingerprint.
func mark(fingerprint string) string { return markBegin + fingerprint + markEnd }

// marked returns the fingerprint in a comment, "" for one that is not ours.
func marked(body string) string {
	rest, ok := strings.CutPrefix(strings.ReplaceAll(body, "\r\n", "\n"), markBegin)
	if !ok {
		return ""
	}
	line, _, ok := strings.Cut(rest, markEnd)
	if !ok || strings.ContainsAny(line, " \n<>") {
		return ""
	}
	return line
}

// key is a remark's fingerprint as it stands in a comment: of one length and without special characters.
func key(r Remark) string {
	sum := sha256.Sum256([]byte(r.Fingerprint))
	return hex.EncodeToString(sum[:16])
}

// steps is what makes a request's comments equal to a review.
type steps struct {
	add    []Remark
	edit   []edit
	retire []note
}

// edit is a comment that says something else by now.
type edit struct {
	note
	remark Remark
}

// plan compares the comments that stand with those that should. Pure.
func plan(standing []note, remarks []Remark) steps {
	var s steps
	left := map[string]note{}
	for _, n := range standing {
		fingerprint := marked(n.body)
		if !n.line || fingerprint == "" {
			continue
		}
		if _, twice := left[fingerprint]; twice {
			s.retire = append(s.retire, n)
			continue
		}
		left[fingerprint] = n
	}
	done := map[string]bool{}
	for _, r := range remarks {
		k := key(r)
		if done[k] {
			continue
		}
		done[k] = true
		n, stands := left[k]
		if !stands {
			s.add = append(s.add, r)
			continue
		}
		delete(left, k)
		if body := remarkBody(r); !same(n.body, body) {
			s.edit = append(s.edit, edit{n, r})
		}
	}
	for _, n := range left {
		if !n.answered || !same(n.body, retiredBody(n)) {
			s.retire = append(s.retire, n)
		}
	}
	slices.SortFunc(s.retire, func(a, b note) int { return cmp.Compare(a.id, b.id) })
	return s
}

// same compares comments as hosts keep them: with other line ends and without space at the end.
func same(a, b string) bool {
	clean := func(text string) string { return strings.TrimSpace(strings.ReplaceAll(text, "\r\n", "\n")) }
	return clean(a) == clean(b)
}

func remarkBody(r Remark) string { return mark(key(r)) + cut(r.Body, maxBody) }

// retiredBody is what a comment becomes that is no longer true but that others have answered.
func retiredBody(n note) string { return mark(marked(n.body)) + "*No longer found.*" }

// Comment makes the comments on a request equal to the review: one for each remark and one summary. What stands
// already is edited in place, what is gone is removed, or marked as done where others have answered it. Remarks on
// lines that the host takes no comment for are told in the summary.
func Comment(ctx context.Context, h Host, number int, review Review) error {
	standing, err := h.notes(ctx, number)
	if err != nil {
		return fmt.Errorf("read comments of request %d: %w", number, err)
	}
	s := plan(standing, review.Remarks)
	for _, e := range s.edit {
		err := h.edit(ctx, number, e.note, remarkBody(e.remark))
		if notOurs(err) {
			s.add = append(s.add, e.remark)
			continue
		}
		if err != nil {
			return fmt.Errorf("edit comment %s of request %d: %w", e.id, number, err)
		}
	}
	var homeless []Remark
	for _, r := range s.add {
		err := h.addRemark(ctx, number, review.Commit, r, remarkBody(r))
		if errors.Is(err, errNoSuchLine) {
			homeless = append(homeless, r)
			continue
		}
		if err != nil {
			return fmt.Errorf("comment on %s:%d of request %d: %w", r.Path, r.Line, number, err)
		}
	}
	for _, n := range s.retire {
		if err := h.retire(ctx, number, n); err != nil && !notOurs(err) {
			return fmt.Errorf("remove comment %s of request %d: %w", n.id, number, err)
		}
	}
	if err := summarize(ctx, h, number, standing, summaryBody(review.Summary, homeless)); err != nil {
		return fmt.Errorf("write summary on request %d: %w", number, err)
	}
	return nil
}

// notOurs tells that a comment can't be changed because it is gone, or because somebody else has copied
// our mark into theirs: neither stands in the way of the rest.
func notOurs(err error) bool {
	e, ok := errors.AsType[*APIError](err)
	return ok && (e.Status == http.StatusNotFound || e.Status == http.StatusForbidden)
}

// summaryBody returns the whole of the summary, "" for none.
func summaryBody(summary string, homeless []Remark) string {
	if summary == "" && len(homeless) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString(mark(summaryMark) + cut(summary, maxBody/2))
	if len(homeless) > 0 {
		b.WriteString("\n\nOutside of the changed lines:\n")
	}
	for i, r := range homeless {
		line := fmt.Sprintf("- `%s:%d`: %s\n", strings.ReplaceAll(r.Path, "`", "'"), r.Line, strings.Join(strings.Fields(r.Body), " "))
		if b.Len()+len(line) > maxBody {
			fmt.Fprintf(&b, "- and %d more\n", len(homeless)-i)
			break
		}
		b.WriteString(line)
	}
	return b.String()
}

// summarize brings the one comment on the whole request up to date.
func summarize(ctx context.Context, h Host, number int, standing []note, body string) error {
	found := false
	for _, n := range standing {
		if n.line || marked(n.body) != summaryMark {
			continue
		}
		var err error
		switch {
		case found || body == "":
			err = h.retire(ctx, number, n)
		case !same(n.body, body):
			err = h.edit(ctx, number, n, body)
		}
		if err != nil && notOurs(err) {
			continue
		}
		if err != nil {
			return err
		}
		found = true
	}
	if found || body == "" {
		return nil
	}
	return h.addSummary(ctx, number, body)
}
