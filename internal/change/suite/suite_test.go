package suite

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// app writes files (by path) to a directory of their own.
func app(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	write(t, root, files)
	return root
}

func write(t testing.TB, root string, files map[string]string) {
	t.Helper()
	for name, data := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// shop is an app of three packages: cart uses price, mail uses nothing.
func shop() map[string]string {
	return map[string]string{
		"go.mod":              "module shop\n\ngo 1.26\n",
		"price/price.go":      "package price\n\nfunc Of(n int) int { return n * 3 }\n",
		"price/price_test.go": "package price\n\nimport \"testing\"\n\nfunc TestOf(t *testing.T) {\n\tif Of(2) != 6 {\n\t\tt.Error(\"bad price\")\n\t}\n}\n",
		"cart/cart.go":        "package cart\n\nimport \"shop/price\"\n\nfunc Sum(n int) int { return price.Of(n) }\n",
		"cart/cart_test.go": "package cart\n\nimport \"testing\"\n\nfunc TestSum(t *testing.T) {\n\tt.Run(\"two\", func(t *testing.T) {\n\t\t" +
			"if Sum(2) != 6 {\n\t\t\tt.Fatalf(\"sum is %d\", Sum(2))\n\t\t}\n\t})\n}\n\nfunc TestLater(t *testing.T) { t.Skip(\"later\") }\n",
		"mail/mail.go":            "package mail\n",
		"mail/mail_test.go":       "package mail\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestData(t *testing.T) {\n\tif _, err := os.ReadFile(\"testdata/a\"); err != nil {\n\t\tt.Fatal(err)\n\t}\n}\n",
		"mail/testdata/a":         "1",
		"mail/testdata/a.go":      "package a\n",
		"mail/templates/a.html":   "1",
		"mail/post/post.go":       "package post\n",
		"mail/post/en/stamp.txt":  "1",
		"mail/post/en/make.go":    "//go:build ignore\n\npackage main\n",
		"cmd/shop/main.go":        "package main\n\nfunc main() {}\n",
		"web/package.json":        "{}",
		"web/index.js":            "1",
		"web/node_modules/x/a.js": "1",
	}
}

func discover(t *testing.T, s Source) []Unit {
	t.Helper()
	units, err := s.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return units
}

func run1(t *testing.T, r *Runner) *Result {
	t.Helper()
	res, err := r.Run(t.Context(), discover(t, r.Source))
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func unit(t *testing.T, res *Result, name string) UnitResult {
	t.Helper()
	i := slices.IndexFunc(res.Units, func(u UnitResult) bool { return u.Name == name })
	if i < 0 {
		t.Fatalf("no unit %s in %v", name, res.Units)
	}
	return res.Units[i]
}

func TestKeysChangeWithWhatTestsCanRead(t *testing.T) {
	root := app(t, shop())
	s := Source{Root: root, Commands: []Command{{Service: "web", Dir: "web", Run: "true"}}, Env: []string{"SHOP_MODE"}}
	names := []string{"shop/cart", "shop/mail", "shop/price", "web"}
	keys := func() map[string]string {
		out := map[string]string{}
		for _, u := range discover(t, s) {
			out[u.Name] = u.Key
		}
		return out
	}
	before := keys()
	for _, c := range []struct {
		name  string
		files map[string]string
		env   string
		want  []string
	}{
		{"nothing", nil, "", nil},
		{"a file that no package has", map[string]string{"README.md": "x", "cmd/shop/main.go": "package main\n\nfunc main() { println() }\n"}, "", nil},
		{"a package and who imports it", map[string]string{"price/price.go": "package price\n\nfunc Of(n int) int { return 3 * n }\n"}, "", []string{"shop/cart", "shop/price"}},
		{"the tests of a package alone", map[string]string{"price/price_test.go": "package price\n"}, "", []string{"shop/price"}},
		{"its data", map[string]string{"mail/testdata/a": "2"}, "", []string{"shop/mail"}},
		{"source that is its data", map[string]string{"mail/testdata/a.go": "package b\n"}, "", []string{"shop/mail"}},
		{"its templates", map[string]string{"mail/templates/a.html": "2"}, "", []string{"shop/mail"}},
		{"a package below it", map[string]string{"mail/post/post.go": "package post\n\nvar X = 1\n"}, "", nil},
		{"a file beside that", map[string]string{"mail/post/en/stamp.txt": "2"}, "", []string{"shop/mail"}},
		{"source of no package", map[string]string{"mail/post/en/make.go": "//go:build ignore\n\npackage x\n"}, "", []string{"shop/mail"}},
		{"a file beside it", map[string]string{"cart/golden.json": "{}"}, "", []string{"shop/cart"}},
		{"the language version", map[string]string{"go.mod": "module shop\n\ngo 1.25\n"}, "", []string{"shop/cart", "shop/mail", "shop/price"}},
		{"a service's source", map[string]string{"web/index.js": "2"}, "", []string{"web"}},
		{"what a package manager made", map[string]string{"web/node_modules/x/a.js": "2"}, "", nil},
		{"a variable that tests see", nil, "x", names},
	} {
		write(t, root, c.files)
		t.Setenv("SHOP_MODE", c.env)
		after := keys()
		var changed []string
		for _, n := range names {
			if before[n] != after[n] {
				changed = append(changed, n)
			}
		}
		if diff := cmp.Diff(c.want, changed); diff != "" {
			t.Errorf("%s: changed keys: %s", c.name, diff)
		}
		before = after
	}
}

func TestKeysAreTheSameInEveryCheckout(t *testing.T) {
	commands := []Command{{Service: "web", Dir: "web", Run: "true"}}
	here, there := app(t, shop()), app(t, shop())
	if err := os.Chmod(filepath.Join(there, "price/price.go"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := discover(t, Source{Root: here, Commands: commands})
	t.Setenv("GOFLAGS", "-p=2")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(there, link); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, discover(t, Source{Root: link, Commands: commands})); diff != "" {
		t.Error(diff)
	}
}

func TestTestsThatReadElsewhereAreKeyedByTheWholeTree(t *testing.T) {
	const (
		starts = "package testenv\n\nimport \"os/exec\"\n\nfunc Start() { _ = exec.Command(\"go\", \"run\", \"shop/cmd/shop\").Run() }\n"
		uses   = "package mail\n\nimport (\n\t\"testing\"\n\n\t\"shop/testenv\"\n)\n\nfunc TestEnv(t *testing.T) { testenv.Start() }\n"
		needs  = "package mail\n\nimport \"shop/testenv\"\n\nfunc Send() { testenv.Start() }\n"
		main   = "package main\n\nimport \"shop/testenv\"\n\nfunc main() { testenv.Start() }\n"
		reads  = "\n\nimport \"os\"\n\nfunc Start() { os.ReadFile(\"../README.md\") }\n"
	)
	for name, tt := range map[string]struct {
		files map[string]string
		want  string
	}{
		"a test names a path": {map[string]string{"mail/mail_test.go": "package mail\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestUp(t *testing.T) { os.ReadFile(\"../README.md\") }\n"},
			"mail/mail_test.go names a path outside its directory"},
		"the package itself does":              {map[string]string{"mail/mail.go": "package mail" + reads}, "mail/mail.go names a path outside its directory"},
		"a helper of tests does":               {map[string]string{"testenv/env.go": "package testenv" + reads, "mail/mail_test.go": uses}, "testenv/env.go names a path outside its directory"},
		"a helper of tests starts programs":    {map[string]string{"testenv/env.go": starts, "mail/mail_test.go": uses}, "testenv/env.go starts programs"},
		"one that is a tool as well":           {map[string]string{"testenv/env.go": starts, "mail/mail_test.go": uses, "cmd/shop/main.go": main}, "testenv/env.go starts programs"},
		"one that the package needs":           {map[string]string{"testenv/env.go": starts, "mail/mail.go": needs}, "testenv/env.go starts programs"},
		"what a service needs starts programs": {map[string]string{"testenv/env.go": starts, "mail/mail.go": needs, "cmd/shop/main.go": main}, ""},
		"what a service needs names a path":    {map[string]string{"testenv/env.go": "package testenv" + reads, "mail/mail.go": needs, "cmd/shop/main.go": main}, "testenv/env.go names a path outside its directory"},
	} {
		t.Run(name, func(t *testing.T) {
			files := shop()
			maps.Copy(files, tt.files)
			root := app(t, files)
			mail := func() Unit {
				units := discover(t, Source{Root: root})
				return units[slices.IndexFunc(units, func(u Unit) bool { return u.Name == "shop/mail" })]
			}
			before := mail()
			write(t, root, map[string]string{"README.md": "new"})
			after := mail()
			if after.Wide != tt.want || (after.Key != before.Key) != (tt.want != "") {
				t.Errorf("got %q, want %q; the key was %s and is %s", after.Wide, tt.want, before.Key, after.Key)
			}
		})
	}
}

func TestModulesBelowAPackageHaveKeysOfTheirOwn(t *testing.T) {
	files := shop()
	files["mail/post/go.mod"], files["mail/post/a.txt"] = "module post\n\ngo 1.26\n", "1"
	files["mail/fixtures/go.mod"] = "module fixtures\n"
	root := app(t, files)
	mail := func() string {
		units := discover(t, Source{Root: root, Modules: []string{".", "mail/post"}})
		return units[slices.IndexFunc(units, func(u Unit) bool { return u.Name == "shop/mail" })].Key
	}
	before := mail()
	write(t, root, map[string]string{"mail/post/a.txt": "2"})
	if after := mail(); after != before {
		t.Error("a file of a module of the app's is in the key of a package above it")
	}
	write(t, root, map[string]string{"mail/fixtures/go.mod": "module other\n"})
	if after := mail(); after == before {
		t.Error("a module that is only data is not in the key")
	}
}

func TestRunAndTheSecondTimeFromTheCache(t *testing.T) {
	root := app(t, shop())
	cache := &Cache{Store: Dir(t.TempDir())}
	r := &Runner{Source: Source{Root: root}, Cache: cache, Trust: Trusted, From: "change 1"}
	res := run1(t, r)
	if res.Status != Passed || res.Counts != (Counts{Passed: 3, Skipped: 1}) {
		t.Fatalf("got %s %+v", res.Status, res.Counts)
	}
	write(t, root, map[string]string{"price/price.go": "package price\n\nfunc Of(n int) int { return n * 4 }\n"})
	r.From = "change 2"
	res = run1(t, r)
	if got := unit(t, res, "shop/mail"); got.Cached != "same inputs as change 1" || got.Status != Passed {
		t.Errorf("mail was not taken from the cache: %+v", got)
	}
	if res.Status != Failed || res.Counts.Cached != 1 {
		t.Errorf("got %s %+v", res.Status, res.Counts)
	}
	cart := unit(t, res, "shop/cart")
	i := slices.IndexFunc(cart.Tests, func(t Test) bool { return t.Name == "TestSum/two" })
	if i < 0 || cart.Tests[i].File != "cart/cart_test.go" || cart.Tests[i].Line != 8 || !strings.Contains(strings.Join(cart.Tests[i].Output, "\n"), "sum is 8") {
		t.Errorf("the failure is told as %+v", cart.Tests)
	}
	if diff := cmp.Diff([]string{"shop/cart", "shop/price"}, res.FailedIn()); diff != "" {
		t.Error(diff)
	}
	if data, err := json.Marshal(res); err != nil || !strings.Contains(string(data), `"cached":"same inputs as change 1"`) {
		t.Errorf("as JSON: %s %v", data, err)
	}
}

func TestBrokenPackagesAreTold(t *testing.T) {
	files := shop()
	files["price/price.go"] = "package price\n\nfunc Of(n int) int { return \"x\" }\n"
	files["mail/mail_test.go"] = "package mail\n\nimport \"testing\"\n\nfunc TestPanic(t *testing.T) {\n\tvar p *int\n\t*p = 1\n}\n"
	res := run1(t, &Runner{Source: Source{Root: app(t, files)}})
	cart := unit(t, res, "shop/cart")
	if cart.Status != Failed || cart.Reason != "it does not compile" || !strings.Contains(strings.Join(cart.Output, "\n"), "price/price.go:3:") {
		t.Errorf("cart: %+v", cart)
	}
	mail := unit(t, res, "shop/mail")
	if mail.Status != Failed || len(mail.Tests) != 1 || mail.Tests[0].File != "mail/mail_test.go" || mail.Tests[0].Line != 7 {
		t.Errorf("mail: %+v", mail)
	}
	res = run1(t, &Runner{Source: Source{Root: app(t, map[string]string{"go.mod": "module m\n\ngo 1.26\n", "a_test.go": "package a\n\nfunc {"})}})
	if res.Status != Failed {
		t.Errorf("a file that can't be parsed: %+v", res)
	}
}

// A test that fails when a file is there and makes or removes it: it fails the
// first time and passes the second with the same inputs.
func flaky(dir string) string {
	return "package mail\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestSometimes(t *testing.T) {\n\tf := \"" + dir + "/mark\"\n" +
		"\tif os.Mkdir(f, 0o700) == nil {\n\t\tt.Error(\"not now\")\n\t\treturn\n\t}\n\tos.Remove(f)\n}\n"
}

func TestAFlakeIsFoundShownAndAtLastQuarantined(t *testing.T) {
	files := shop()
	files["mail/mail_test.go"] = flaky(t.TempDir())
	cache := Dir(t.TempDir())
	r := &Runner{
		Source: Source{Root: app(t, files)}, Policy: Quarantine, Trust: Trusted,
		History: &File{Path: filepath.Join(t.TempDir(), "history")}, Cache: &Cache{Store: cache},
	}
	var statuses []Status
	for range 4 {
		res := run1(t, r)
		statuses = append(statuses, res.Status)
		if len(res.Flakes) != 1 || res.Flakes[0].Test != "shop/mail TestSometimes" || res.Flakes[0].File != "mail/mail_test.go" || res.Counts.Flaky != 1 {
			t.Fatalf("flakes: %+v", res.Flakes)
		}
		if res.Flakes[0].Quarantined != (res.Status == Passed) {
			t.Errorf("status %s with %+v", res.Status, res.Flakes[0])
		}
		if unit(t, res, "shop/mail").Cached != "" {
			t.Error("a flaky result was cached")
		}
	}
	if statuses[0] != Failed || statuses[3] != Passed {
		t.Errorf("got %v: one contradiction is not enough for quarantine, four times are", statuses)
	}
	r.Policy = FailFlakes
	if res := run1(t, r); res.Status != Failed || res.Flakes[0].Quarantined {
		t.Errorf("by policy flakes fail, got %s %+v", res.Status, res.Flakes)
	}
}

func TestAnUntrustedChangeLeavesNoTraceInTheHistory(t *testing.T) {
	files := shop()
	files["mail/mail_test.go"] = flaky(t.TempDir())
	h := &File{Path: filepath.Join(t.TempDir(), "history")}
	run1(t, &Runner{Source: Source{Root: app(t, files)}, History: h, Trust: Untrusted})
	if got, err := h.Outcomes(t.Context(), "shop/mail"); err != nil || len(got) > 0 {
		t.Errorf("got %v %v", got, err)
	}
}

func TestSecretsOfTheWorkerAreNotThereAndGivenOnesAreMasked(t *testing.T) {
	t.Setenv("WORKER_TOKEN", "s3cr3t-token")
	t.Setenv("DATABASE_PASSWORD", "hunter2hunter2")
	files := map[string]string{
		"go.mod": "module m\n\ngo 1.26\n",
		"a_test.go": "package a\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestEnv(t *testing.T) {\n\t" +
			"t.Error(os.Getenv(\"WORKER_TOKEN\"), os.Getenv(\"DATABASE_PASSWORD\"), os.Getenv(\"HOME\"))\n}\n",
	}
	var log bytes.Buffer
	res := run1(t, &Runner{
		Source:  Source{Root: app(t, files), Env: []string{"DATABASE_PASSWORD"}},
		Secrets: []string{"hunter2hunter2"}, Output: &log,
	})
	data, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	home, _ := os.UserHomeDir()
	for _, bad := range []string{"s3cr3t-token", "hunter2", home + `"`} {
		if strings.Contains(log.String(), bad) || strings.Contains(string(data), bad) {
			t.Errorf("%q is in the log or the result:\n%s\n%s", bad, log.String(), data)
		}
	}
	if !strings.Contains(log.String(), "***") {
		t.Errorf("the variable did not reach the test: %s", log.String())
	}
}

func TestCommandsWithAndWithoutReports(t *testing.T) {
	root := app(t, map[string]string{
		"web/ok.xml": "", "api/x": "",
	})
	report := `<testsuite><testcase classname="a" name="b" time="0.5"/><testcase name="c"><failure message="no">line</failure></testcase></testsuite>`
	res := run1(t, &Runner{Source: Source{Root: root, Commands: []Command{
		{Service: "web", Dir: "web", Run: "echo '" + report + "' >junit-1.xml; exit 1", Report: "junit-*.xml"},
		{Service: "api", Dir: "api", Run: "echo fine"},
		{Service: "old", Dir: "api", Run: "echo broken >&2; exit 3"},
	}}})
	web := unit(t, res, "web")
	if web.Status != Failed || len(web.Tests) != 2 || web.Tests[0].Name != "a.b" || web.Tests[1].Status != Failed {
		t.Errorf("web: %+v", web)
	}
	if api := unit(t, res, "api"); api.Status != Passed {
		t.Errorf("api: %+v", api)
	}
	if old := unit(t, res, "old"); old.Status != Failed || !slices.Contains(old.Output, "broken") || !strings.Contains(old.Reason, "3") {
		t.Errorf("old: %+v", old)
	}
	if got, want := unit(t, res, "old").Failures(), []string{"old: its command ended with exit status 3", "broken"}; !slices.Equal(got, want) {
		t.Errorf("old says %q, want %q", got, want)
	}
	if _, err := (Source{Root: root, Commands: []Command{{Service: "x", Dir: "../.."}}}).Discover(t.Context()); err == nil {
		t.Error("a directory outside the app is accepted")
	}
}

func TestCancelledTestsLeaveNoProcess(t *testing.T) {
	root := app(t, map[string]string{"x/a": ""})
	ctx, cancel := context.WithCancel(t.Context())
	started := filepath.Join(t.TempDir(), "started")
	r := &Runner{Source: Source{Root: root, Commands: []Command{{Service: "x", Dir: "x", Run: "setsid sleep 6789 & touch " + started + "; sleep 6789"}}}}
	go func() {
		defer cancel()
		await(t, func() bool { _, err := os.Stat(started); return err == nil })
	}()
	res, err := r.Run(ctx, discover(t, r.Source))
	if err != nil {
		t.Fatal(err)
	}
	if got := unit(t, res, "x"); got.Stop != StopCancelled || res.Status != Stopped {
		t.Errorf("got %+v", got)
	}
	noneLeft(t, "sleep\x006789")
}

func BenchmarkDiscover(b *testing.B) {
	root := b.TempDir()
	write(b, root, shop())
	for b.Loop() {
		if _, err := (Source{Root: root}).Discover(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// await polls for a condition.
func await(t *testing.T, ok func() bool) {
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Error("it did not come to pass")
			return
		}
	}
}

// noneLeft checks that no process has that in its command line.
func noneLeft(t *testing.T, what string) {
	t.Helper()
	await(t, func() bool {
		paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			if data, err := os.ReadFile(p); err == nil && bytes.Contains(data, []byte(what)) {
				return false
			}
		}
		return true
	})
}
