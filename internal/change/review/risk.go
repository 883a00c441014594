package review

import (
	"cmp"
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/bightdev/bight/internal/app"
)

// Facts are what the risk of a change is judged by.
type Facts struct {
	Diff     *Diff
	App      *app.App       // nil if there is none
	AppDir   string         // where the App is in the checkout; "." or "" is the root
	Churn    map[string]int // how many recent commits changed each path; nil is not known
	Findings []Finding
}

// Risk says how likely a change is to do harm.
type Risk struct {
	Score    int      `json:"score"`    // 0 to 100
	Reasons  []Reason `json:"reasons"`  // the weightiest first; their points add up to Score, unless it is 100
	Services []string `json:"services"` // those whose code the change touches, sorted
}

// Reason is one thing that adds to a risk.
type Reason struct {
	Points int    `json:"points"`
	Why    string `json:"why"`
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"` // from 1; 0 is the file as a whole
}

// Assess scores a change. A change of nothing that runs (documents, say) is worth
// no points. Each kind of reason has a most that it adds, so that no single one
// makes the score, and the sum is cut at 100.
func Assess(f Facts) Risk {
	a := assessment{Facts: f, code: codeFiles(f.Diff)}
	a.size()
	a.history()
	a.services()
	a.sensitive()
	a.untested()
	a.findings()

	slices.SortStableFunc(a.reasons, func(x, y Reason) int {
		return cmp.Or(cmp.Compare(y.Points, x.Points), cmp.Compare(x.File, y.File), cmp.Compare(x.Why, y.Why))
	})
	r := Risk{Reasons: a.reasons, Services: a.touched}
	for _, x := range a.reasons {
		r.Score += x.Points
	}
	r.Score = min(r.Score, 100)
	if r.Reasons == nil {
		r.Reasons = []Reason{}
	}
	if r.Services == nil {
		r.Services = []string{}
	}
	return r
}

type assessment struct {
	Facts
	code    []*FileDiff // files that end up in something that runs, tests left out
	touched []string
	reasons []Reason
}

func (a *assessment) add(points int, file string, line int, format string, args ...any) {
	if points > 0 {
		a.reasons = append(a.reasons, Reason{Points: points, Why: fmt.Sprintf(format, args...), File: file, Line: line})
	}
}

// size: every doubling of the lines beyond ten adds three points, up to 20.
func (a *assessment) size() {
	lines, largest := 0, (*FileDiff)(nil)
	for _, f := range a.code {
		if lines += f.size(); largest == nil || f.size() > largest.size() {
			largest = f
		}
	}
	if lines <= 10 {
		return
	}
	points := min(20, int(3*math.Log2(float64(lines)/10)))
	a.add(points, largest.Path, largest.firstLine(), "%d lines of code change in %s", lines, count(len(a.code), "file"))
}

// history: a file that changes often breaks often.
func (a *assessment) history() {
	left := 10
	files := slices.Clone(a.code)
	slices.SortStableFunc(files, func(x, y *FileDiff) int {
		return cmp.Or(cmp.Compare(a.Churn[y.base()], a.Churn[x.base()]), cmp.Compare(x.Path, y.Path))
	})
	for _, f := range files[:min(3, len(files))] {
		n := a.Churn[f.base()]
		points := min(left, n/5, 5)
		left -= points
		a.add(points, f.Path, f.firstLine(), "%s has changed in %d recent commits", f.Path, n)
	}
}

// services: the more of them a change reaches, the more can break at once.
func (a *assessment) services() {
	if a.App == nil {
		return
	}
	where := map[string]*FileDiff{}
	shared := map[string]*FileDiff{}
	for _, f := range a.code {
		names, all := a.servicesOf(f.Path)
		for _, n := range names {
			into := where
			if all {
				into = shared
			}
			if into[n] == nil {
				into[n] = f
			}
		}
	}
	for _, s := range a.App.Services {
		if where[s.Name] != nil || shared[s.Name] != nil {
			a.touched = append(a.touched, s.Name)
		}
	}
	slices.Sort(a.touched)
	if n := len(a.touched); n > 0 {
		f := cmp.Or(shared[a.touched[0]], where[a.touched[0]])
		a.add(min(15, 2+3*(n-1)), f.Path, f.firstLine(), "%s change: %s", count(n, "service"), list(a.touched))
	}
	// Who calls a service that changes is at risk too.
	for _, s := range a.App.Services {
		if slices.Contains(a.touched, s.Name) {
			continue
		}
		for _, l := range s.Links {
			if slices.Contains(a.touched, l.To) {
				a.add(1, path.Join(a.AppDir, l.From.File), l.From.Line, "%s, which does not change, calls %s", s.Name, l.To)
				break
			}
		}
	}
	a.capLast(func(r Reason) bool { return strings.Contains(r.Why, ", which does not change, calls ") }, 5)
}

// capLast drops the reasons that match beyond the first n.
func (a *assessment) capLast(match func(Reason) bool, n int) {
	a.reasons = slices.DeleteFunc(a.reasons, func(r Reason) bool {
		if !match(r) {
			return false
		}
		n--
		return n < 0
	})
}

// servicesOf returns the services that a file is part of, and whether that is
// because it is code that several may share.
func (a *assessment) servicesOf(file string) (names []string, shared bool) {
	longest := -1
	for _, s := range a.App.Services {
		dir := path.Join(a.AppDir, s.Source.Dir)
		if dir != "." && !within(file, dir) {
			continue
		}
		n := len(dir)
		if dir == "." {
			n = 0
		}
		if n > longest {
			names, longest = nil, n
		}
		if n == longest {
			names = append(names, s.Name)
		}
	}
	if names != nil {
		return names, false
	}
	longest = -1
	for _, s := range a.App.Services {
		if s.Build.Kind != app.BuildGo {
			continue
		}
		dir := path.Join(a.AppDir, s.Build.Module)
		if dir != "." && !within(file, dir) {
			continue
		}
		if len(dir) > longest {
			names, longest = nil, len(dir)
		}
		if len(dir) == longest {
			names = append(names, s.Name)
		}
	}
	return names, true
}

func within(file, dir string) bool { return file == dir || strings.HasPrefix(file, dir+"/") }

// area is a kind of path that deserves care.
type area struct {
	points int
	why    string
	match  *regexp.Regexp
}

// areas are tried in order; the first that matches a path counts for it, and each
// counts once.
func areas() []area {
	return []area{
		{15, "a migration of stored data", regexp.MustCompile(`(?i)(^|/)(migrations?|migrate|schema)/|\.sql$|(^|/)schema\.(prisma|rb)$`)},
		{12, "who may do what", regexp.MustCompile(`(?i)(^|[/_.-])(auth|authn|authz|oauth2?|login|sessions?|passwords?|permissions?|rbac|acl|iam|crypto|tls|jwt|tokens?|secrets?|admission|policy|policies)([/_.-]|$)`)},
		{8, "what the code is made of: dependencies", regexp.MustCompile(`(^|/)(go\.(mod|sum|work)|package(-lock)?\.json|yarn\.lock|pnpm-lock\.yaml|requirements[^/]*\.txt|poetry\.lock|pyproject\.toml|Cargo\.(toml|lock)|Gemfile(\.lock)?|pom\.xml|build\.gradle(\.kts)?)$`)},
		{8, "how it is built or shipped", regexp.MustCompile(`(?i)(^|/)(Dockerfile[^/]*|[^/]*\.dockerfile|Makefile|bight\.yaml|skaffold\.yaml|docker-compose[^/]*\.ya?ml|compose\.ya?ml|\.gitlab-ci\.yml|Jenkinsfile)$|^\.github/workflows/|^\.bight/`)},
		{6, "a contract between services", regexp.MustCompile(`(?i)\.(proto|graphqls?|avsc|thrift)$|(^|/)(openapi|swagger)[^/]*\.(ya?ml|json)$`)},
		{6, "what runs in the cluster", regexp.MustCompile(`(?i)(^|/)(charts?|helm|k8s|kubernetes|manifests?|deploy(ment)?s?|kustomize|base|overlays?)/.*\.(ya?ml|json|tpl)$|(^|/)kustomization\.ya?ml$`)},
		{4, "configuration", regexp.MustCompile(`(?i)(^|/)(configs?|settings)/|\.(env|ini|toml|properties|conf|cfg)$|(^|/)(config|settings|values)[^/]*\.(ya?ml|json)$`)},
	}
}

func (a *assessment) sensitive() {
	type hit struct {
		first *FileDiff
		n     int
	}
	kinds := areas()
	hits := make([]hit, len(kinds))
	for _, f := range a.Diff.Files {
		if isTest(f.Path) || isDocument(f.Path) || Vendored(f.Path) {
			continue
		}
		i := slices.IndexFunc(kinds, func(k area) bool { return k.match.MatchString(f.Path) })
		if i < 0 {
			continue
		}
		if hits[i].first == nil {
			hits[i].first = f
		}
		hits[i].n++
	}
	for i, h := range hits {
		if h.n > 0 {
			a.add(kinds[i].points, h.first.Path, h.first.firstLine(), "%s changes (%s)", kinds[i].why, count(h.n, "file"))
		}
	}
	for _, f := range a.Diff.Files {
		if f.Submodule() {
			a.add(10, f.Path, 0, "the submodule %s moves to another commit, whose content this review has not seen", f.Path)
		}
	}
	a.capLast(func(r Reason) bool { return strings.HasPrefix(r.Why, "the submodule ") }, 2)
}

// untested: code changes and no test beside it does.
func (a *assessment) untested() {
	tested := map[string]bool{}
	for _, f := range a.Diff.Files {
		if isTest(f.Path) && f.Kind != Deleted && len(f.Lines) > 0 {
			tested[path.Dir(f.Path)] = true
		}
	}
	var missing []*FileDiff
	lines := 0
	for _, f := range a.code {
		if isProgram(f.Path) && f.Kind != Deleted && len(f.Lines) > 0 && !tested[path.Dir(f.Path)] && !testedNearby(f.Path, tested) {
			missing = append(missing, f)
			lines += len(f.Lines)
		}
	}
	if len(missing) > 0 {
		points := min(15, 4+int(2*math.Log2(float64(max(1, lines)))))
		a.add(points, missing[0].Path, missing[0].firstLine(), "%s of code change and no test beside them does (%s)",
			count(lines, "line"), count(len(missing), "file"))
	}
	for _, f := range a.Diff.Files {
		if isTest(f.Path) && f.Kind == Deleted {
			a.add(5, f.Path, 0, "the test %s is removed", f.Path)
		}
	}
	a.capLast(func(r Reason) bool { return strings.HasSuffix(r.Why, " is removed") }, 2)
}

// testedNearby knows the layouts with tests in a directory of their own.
func testedNearby(file string, tested map[string]bool) bool {
	dir := path.Dir(file)
	for _, d := range []string{"test", "tests", "__tests__", "spec"} {
		if tested[path.Join(dir, d)] || tested[path.Join(path.Dir(dir), d)] || tested[d] {
			return true
		}
	}
	return false
}

// findings: what the checkers say, up to 40.
func (a *assessment) findings() {
	left := 40
	for _, s := range []struct {
		of     Severity
		points int
	}{{Error, 15}, {Warning, 3}} {
		n, first := 0, (*Finding)(nil)
		for i := range a.Findings {
			if a.Findings[i].Severity == s.of {
				if n++; first == nil {
					first = &a.Findings[i]
				}
			}
		}
		if n > 0 {
			points := min(left, n*s.points)
			left -= points
			a.add(points, first.File, first.Line, "the review has %s, the first is %s", count(n, string(s.of)), first.Rule)
		}
	}
}

// codeFiles returns the files of a diff that end up in something that runs.
func codeFiles(d *Diff) []*FileDiff {
	var out []*FileDiff
	for _, f := range d.Files {
		if !isTest(f.Path) && !isDocument(f.Path) && !Vendored(f.Path) && !f.Submodule() {
			out = append(out, f)
		}
	}
	return out
}

func (f *FileDiff) size() int { return len(f.Lines) + f.Removed }

func (f *FileDiff) base() string { return cmp.Or(f.OldPath, f.Path) }

func (f *FileDiff) firstLine() int {
	if len(f.Lines) == 0 {
		return 0
	}
	return f.Lines[0].N
}

func isTest(p string) bool {
	base := path.Base(p)
	for dir := range strings.SplitSeq(path.Dir(p), "/") {
		switch dir {
		case "test", "tests", "__tests__", "testdata", "spec", "e2e":
			return true
		}
	}
	return strings.HasSuffix(base, "_test.go") || strings.HasPrefix(base, "test_") && strings.HasSuffix(base, ".py") ||
		strings.HasSuffix(base, "_test.py") || strings.Contains(base, ".test.") || strings.Contains(base, ".spec.")
}

func isDocument(p string) bool {
	switch strings.ToLower(path.Ext(p)) {
	case ".md", ".rst", ".adoc", ".txt", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf":
		return !strings.HasPrefix(path.Base(p), "requirements")
	}
	switch path.Base(p) {
	case "LICENSE", "NOTICE", "AUTHORS", "CODEOWNERS", ".gitignore", ".gitattributes", ".editorconfig":
		return true
	}
	return strings.HasPrefix(p, "docs/")
}

func isProgram(p string) bool {
	switch path.Ext(p) {
	case ".go", ".py", ".js", ".jsx", ".ts", ".tsx", ".rb", ".java", ".kt", ".rs", ".c", ".cc", ".cpp", ".cs", ".php", ".scala", ".swift":
		return true
	}
	return false
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func list(names []string) string {
	if len(names) > 5 {
		return strings.Join(names[:5], ", ") + fmt.Sprintf(" and %d more", len(names)-5)
	}
	return strings.Join(names, ", ")
}
