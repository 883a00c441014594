package repo

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Remote is a repository on an outside host, reached by http or https.
type Remote struct {
	URL      string
	Username string // with a token as the password any name does for most hosts; "" is "git"
	Password string // or token; "" for none
	MaxFetch int64  // bytes of one fetch; 0 is 2 GiB
}

// RefChange is what a fetch did to one ref here.
type RefChange struct {
	Ref    string
	Old    string // "" for new
	New    string // "" for deleted
	Forced bool   // Old is no ancestor of New: history was rewritten
}

// route is a remote as git is told of it.
type route struct {
	url     string
	config  [][2]string
	secrets []string
}

// resolve checks the remote and takes credentials out of its URL.
func (m Remote) resolve() (route, error) {
	u, err := url.Parse(m.URL)
	if err != nil {
		return route{}, errors.New("the repository's URL can't be read") // the cause would repeat it, credentials and all
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return route{}, fmt.Errorf("repository %s: only http:// and https:// URLs are fetched from", u.Redacted())
	}
	if u.User != nil {
		if m.Password == "" {
			m.Username = u.User.Username()
			m.Password, _ = u.User.Password()
		}
		u.User = nil
	}
	u.Fragment, u.RawQuery = "", ""
	a := route{url: u.String()}
	if m.Password == "" {
		return a, nil
	}
	name := m.Username
	if name == "" {
		name = "git"
	}
	word := base64.StdEncoding.EncodeToString([]byte(name + ":" + m.Password))
	// In the environment, which only this user can read, and for this host alone.
	a.config = [][2]string{{"http." + u.Scheme + "://" + u.Host + "/.extraHeader", "Authorization: Basic " + word}}
	a.secrets = []string{m.Password, word}
	return a, nil
}

// explain adds to an error of the transport what a person can do about it.
func (a route) explain(err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "could not read Username"), strings.Contains(text, "could not read Password"), strings.Contains(text, "Authentication failed"), strings.Contains(text, "error: 401"):
		return fmt.Errorf("%w: the host did not accept the credentials: renew the token", err)
	case strings.Contains(text, "error: 403"):
		return fmt.Errorf("%w: the credentials have no right to this repository", err)
	case strings.Contains(text, "unable to update url base from redirection"), strings.Contains(text, "error: 301"), strings.Contains(text, "error: 302"), strings.Contains(text, "error: 307"), strings.Contains(text, "error: 308"):
		return fmt.Errorf("%w: the host redirects to another address, which is not followed: set the new one", err)
	}
	return err
}

// Fetch brings refs of an outside host here: each refspec is "SOURCE:DESTINATION", with a '+' in front where
// history may be rewritten, both ending in "/*" for all below. What is gone there is deleted here, within the
// refspecs' destinations. It returns what has changed, sorted by ref.
func (r *Repository) Fetch(ctx context.Context, from Remote, refspecs ...string) ([]RefChange, error) {
	a, err := from.resolve()
	if err != nil {
		return nil, err
	}
	prefixes, err := destinations(refspecs)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", a.url, err)
	}
	before, err := r.refsOf(ctx, prefixes)
	if err != nil {
		return nil, err
	}
	args := []string{"fetch", "--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance",
		"--no-recurse-submodules", "--no-show-forced-updates", "--", a.url}
	most := cmp.Or(from.MaxFetch, defaultMaxPush)
	c := call{dir: r.Dir, args: append(args, refspecs...), secrets: a.secrets, files: most,
		config: append(a.config, [2]string{"fetch.unpackLimit", "1"})} // what comes is one file
	if _, err := run(ctx, c); err != nil {
		if cut, sweepErr := r.sweepCut(most); cut {
			return nil, errors.Join(fmt.Errorf("fetch %s: %w", a.url, &TooLargeError{What: strings.Join(refspecs, " "), Size: -1, Limit: most}), sweepErr)
		}
		return nil, a.explain(fmt.Errorf("fetch %s: %w", a.url, err))
	}
	after, err := r.refsOf(ctx, prefixes)
	if err != nil {
		return nil, err
	}
	changes := compareRefs(before, after)
	for i, c := range changes {
		if c.Old == "" || c.New == "" {
			continue
		}
		kept, err := r.IsAncestor(ctx, c.Old, c.New)
		if err != nil {
			return nil, err
		}
		changes[i].Forced = !kept
	}
	return changes, nil
}

// sweepCut removes what fetches have left that were cut off at limit bytes, and reports whether there was any: git
// itself does not say what it died of.
func (r *Repository) sweepCut(limit int64) (found bool, err error) {
	unfinished, err := filepath.Glob(filepath.Join(r.Dir, "objects", "pack", "tmp_*"))
	for _, file := range unfinished {
		if info, statErr := os.Stat(file); statErr == nil && info.Size() >= limit {
			found, err = true, errors.Join(err, os.Remove(file))
		}
	}
	return found, err
}

// destinations checks refspecs and returns where they write: whole names, or prefixes that end in '/'.
func destinations(refspecs []string) ([]string, error) {
	if len(refspecs) == 0 {
		return nil, errors.New("no refspec says what to fetch")
	}
	var prefixes []string
	for _, spec := range refspecs {
		source, destination, ok := strings.Cut(strings.TrimPrefix(spec, "+"), ":")
		if !ok || strings.HasSuffix(source, "/*") != strings.HasSuffix(destination, "/*") {
			return nil, fmt.Errorf("refspec %q is not SOURCE:DESTINATION", spec)
		}
		for _, side := range []string{source, destination} {
			whole := side
			if name, glob := strings.CutSuffix(side, "/*"); glob {
				whole = name + "/x"
			}
			if fullHash.MatchString(side) && side == source {
				continue
			}
			if err := CheckRef(whole); err != nil {
				return nil, fmt.Errorf("refspec %q: %w", spec, err)
			}
		}
		prefixes = append(prefixes, strings.TrimSuffix(destination, "*"))
	}
	return prefixes, nil
}

// refsOf returns the refs below any of the prefixes.
func (r *Repository) refsOf(ctx context.Context, prefixes []string) (map[string]string, error) {
	all := map[string]string{}
	for _, prefix := range prefixes {
		refs, err := r.Refs(ctx, prefix)
		if err != nil {
			return nil, err
		}
		maps.Copy(all, refs)
	}
	return all, nil
}

// compareRefs tells in what two states of refs differ.
func compareRefs(before, after map[string]string) []RefChange {
	var changes []RefChange
	for ref, hash := range after {
		if before[ref] != hash {
			changes = append(changes, RefChange{Ref: ref, Old: before[ref], New: hash})
		}
	}
	for ref, hash := range before {
		if _, ok := after[ref]; !ok {
			changes = append(changes, RefChange{Ref: ref, Old: hash})
		}
	}
	slices.SortFunc(changes, func(a, b RefChange) int { return strings.Compare(a.Ref, b.Ref) })
	return changes
}

// Pushing is one ref of an outside host to be moved.
type Pushing struct {
	Commit string // "" deletes the ref
	Ref    string
	Expect string // where the host has the ref now, "" for nowhere: if it is elsewhere, nothing is moved
}

// Push moves a ref of an outside host: a [MovedError] if it is not where it was expected, a [RejectedError] if
// the host has another reason.
func (r *Repository) Push(ctx context.Context, to Remote, p Pushing) error {
	a, err := to.resolve()
	if err != nil {
		return err
	}
	if err := CheckRef(p.Ref); err != nil {
		return fmt.Errorf("push %q: %w", p.Ref, err)
	}
	for _, hash := range []string{p.Commit, p.Expect} {
		if hash != "" && !fullHash.MatchString(hash) {
			return fmt.Errorf("push %s: %q is no hash", p.Ref, hash)
		}
	}
	args := []string{"push", "--porcelain", "--no-verify", "--no-recurse-submodules", "--no-signed",
		"--force-with-lease=" + p.Ref + ":" + p.Expect, "--", a.url, p.Commit + ":" + p.Ref}
	out, err := run(ctx, call{dir: r.Dir, args: args, config: a.config, secrets: a.secrets})
	if err == nil {
		return nil
	}
	if reason, refused := parsePush(string(out)); refused {
		if strings.Contains(reason, "stale info") {
			have, err := r.remoteRef(ctx, a, p.Ref)
			if err != nil {
				return err
			}
			return &MovedError{Ref: p.Ref, Want: p.Expect, Have: have}
		}
		return &RejectedError{Ref: p.Ref, Reason: mask(printable(reason), a.secrets)}
	}
	return a.explain(fmt.Errorf("push %s to %s: %w", p.Ref, a.url, err))
}

// remoteRef returns where a host has a ref, "" for nowhere.
func (r *Repository) remoteRef(ctx context.Context, a route, ref string) (string, error) {
	out, err := run(ctx, call{dir: r.Dir, args: []string{"ls-remote", "--refs", "--", a.url, ref}, config: a.config, secrets: a.secrets})
	if err != nil {
		return "", a.explain(fmt.Errorf("list refs of %s: %w", a.url, err))
	}
	for line := range strings.Lines(string(out)) {
		if hash, name, _ := strings.Cut(strings.TrimSpace(line), "\t"); name == ref {
			return hash, nil
		}
	}
	return "", nil
}

// parsePush finds in what push --porcelain writes why a ref was refused: "!\tFROM:TO\t[rejected] (stale info)".
func parsePush(out string) (reason string, refused bool) {
	for line := range strings.Lines(out) {
		if fields := strings.SplitN(strings.TrimSpace(line), "\t", 3); len(fields) == 3 && fields[0] == "!" {
			return fields[2], true
		}
	}
	return "", false
}
