package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/atomicfile"
	"github.com/bightdev/bight/internal/release"
)

const (
	// mostAttempts is of how many attempts is kept how they went, mostWords how much of what was said.
	mostAttempts, mostWords = 10, 300
	// keepPast is for how long, and mostPast of how many releases of a namespace, at the next sweep.
	keepPast = 365 * 24 * time.Hour
	mostPast = 2000
	// lately is how long ago a release may have ended of which the process that led then has written nothing.
	lately = time.Hour
)

// past keeps how releases went, for those that take their place: a version that is begun anew has a Release of the same name,
// and the one before is no more. Files are where nobody can write who may make Releases: NAMESPACE/RELEASE.json.
type past struct {
	dir string // "" keeps nothing
	mu  sync.Mutex
}

func (p *past) file(namespace, name string) string {
	if len(name) > 200 { // a file's name has 255 bytes at most
		name = digest(name)
	}
	return filepath.Join(p.dir, namespace, name+".json")
}

// attempts are those that are kept of a name, the newest last. A file that can't be read has none: nothing depends on it.
func (p *past) attempts(namespace, name string) ([]v1alpha1.ReleaseAttempt, error) {
	if p.dir == "" {
		return nil, nil
	}
	text, err := os.ReadFile(p.file(namespace, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all []v1alpha1.ReleaseAttempt
	if err == nil && json.Unmarshal(text, &all) != nil {
		all = nil
	}
	return all, err
}

// add keeps how a release went. Told of the same again it writes nothing.
func (p *past) add(r *v1alpha1.Release) error {
	if p.dir == "" || r.Status.Started == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	all, err := p.attempts(r.Namespace, r.Name)
	if err == nil {
		next := added(all, attemptOf(r))
		if apiequality.Semantic.DeepEqual(next, all) {
			return nil
		}
		var text []byte
		if text, err = json.Marshal(next); err == nil {
			err = atomicfile.Write(p.file(r.Namespace, r.Name), text)
		}
	}
	if err != nil {
		return fmt.Errorf("keep how release %s/%s went: %w", r.Namespace, r.Name, err)
	}
	return nil
}

// before are the attempts before a release. What its status says counts where nothing is kept.
func (p *past) before(r *v1alpha1.Release) ([]v1alpha1.ReleaseAttempt, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all, err := p.attempts(r.Namespace, r.Name)
	all = slices.DeleteFunc(all, func(a v1alpha1.ReleaseAttempt) bool { return a.UID == r.UID })
	if len(all) == 0 {
		all = r.Status.Attempts
	}
	return all, err
}

// sweep removes what nobody has added to since a time, and of a namespace that has too many the oldest.
func (p *past) sweep(before time.Time) error {
	if p.dir == "" {
		return nil
	}
	files, err := filepath.Glob(filepath.Join(p.dir, "*", "*.json"))
	type file struct {
		name string
		last time.Time
	}
	var all []file
	for _, name := range files {
		if info, err := os.Stat(name); err == nil {
			all = append(all, file{name, info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b file) int { return b.last.Compare(a.last) })
	errs, have := []error{err}, map[string]int{}
	for _, f := range all {
		dir := filepath.Dir(f.name)
		if have[dir]++; have[dir] <= mostPast && !f.last.Before(before) {
			continue
		}
		p.mu.Lock()
		errs = append(errs, os.Remove(f.name))
		_ = os.Remove(dir) // if that was the last
		p.mu.Unlock()
	}
	return errors.Join(errs...)
}

// attemptOf sums up a release. It has no number yet.
func attemptOf(r *v1alpha1.Release) v1alpha1.ReleaseAttempt {
	s := r.Status
	a := v1alpha1.ReleaseAttempt{
		UID: r.UID, Phase: s.Phase, Message: short(s.Message), Convicted: s.Convicted, Began: s.Started, Ended: s.Ended,
		By: r.Spec.Orders.By,
	}
	if a.By == "" && r.Spec.Change != "" {
		a.By = "change " + r.Spec.Change
	}
	if s.Verdict != nil {
		a.Verdict, a.Why = s.Verdict.Is, short(s.Verdict.Why)
	}
	if !release.Phase(s.Phase).Ended() {
		a.Message = short(strings.TrimSuffix("its Release was removed by force: "+s.Message, ": "))
	}
	return a
}

// added are the attempts with one more, or with what is known of that one now.
func added(all []v1alpha1.ReleaseAttempt, a v1alpha1.ReleaseAttempt) []v1alpha1.ReleaseAttempt {
	all = slices.Clone(all)
	if i := slices.IndexFunc(all, func(x v1alpha1.ReleaseAttempt) bool { return x.UID == a.UID }); i >= 0 {
		a.Number = all[i].Number
		all[i] = a
		return all
	}
	if a.Number = 1; len(all) > 0 {
		a.Number = all[len(all)-1].Number + 1
	}
	all = append(all, a)
	return all[max(0, len(all)-mostAttempts):]
}

// short is the beginning of a text, in one line.
func short(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= mostWords {
		return text
	}
	return strings.ToValidUTF8(text[:mostWords], "") + " …"
}
