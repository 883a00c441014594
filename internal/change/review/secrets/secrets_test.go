package secrets

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/change/review"
	"github.com/bightdev/bight/internal/change/review/reviewtest"
)

// Secrets are put together here, so that the repository has none.
var (
	awsKey = "AKIA" + "QYLPMN5HHHFPZAM2"
	ghKey  = "ghp_" + "vK9xL2mQ8rT4wY7zB1nC5dF3gH6jP0sAeUiO"
)

func privateKey(lines int) string {
	var b strings.Builder
	b.WriteString("-----BEGIN RSA " + "PRIVATE KEY-----\n")
	for i := range lines {
		fmt.Fprintf(&b, "MIIEpAIBAAKCAQEA%048d\n", i*7919)
	}
	return b.String() + "-----END RSA " + "PRIVATE KEY-----\n"
}

func check(t *testing.T, in *review.Input) (*review.Report, []string) {
	t.Helper()
	r := review.Reviewer{Checkers: []review.Checker{&Checker{}}}
	rep, err := r.Review(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range rep.Findings {
		got = append(got, fmt.Sprintf("%s %s:%d %s", f.Severity, f.File, f.Line, f.Rule))
	}
	return rep, got
}

func TestWhatIsTooLargeToBeSearchedIsSaid(t *testing.T) {
	in := reviewtest.Change(t, map[string]string{"a": "a\n"}, map[string]string{
		"big.log":   strings.Repeat("GET / 200\n", review.LargeFile/10) + "token = " + ghKey + "\n",
		"small.bin": "x\x00y",
	})
	rep, got := check(t, in)
	if len(got) > 0 || len(rep.Unchecked) != 1 || rep.Unchecked[0].What != "big.log" || !strings.Contains(rep.Unchecked[0].Why, "more than 100 MiB") {
		t.Errorf("findings %q, not checked %+v", got, rep.Unchecked)
	}
}

func TestSecretsAreFoundOnAddedLinesOnlyAndNeverShown(t *testing.T) {
	old := "# " + strings.Replace(awsKey, "M2", "Q7", 1) + " was here before\n"
	in := reviewtest.Change(t, map[string]string{
		"config.env": old + "A=1\nB=2\n",
	}, map[string]string{
		"config.env":    old + "A=1\nAWS_ACCESS_KEY_ID=" + awsKey + "\r\nB=2\n",
		"with space.go": "package x\n\nconst token = \"" + ghKey + "\"\n",
		"key.pem":       "text\n\n" + privateKey(20),
		"allowed.go":    "package x\n\nconst token = \"" + ghKey + "\" // gitleaks:allow\n",
		"store.p12":     "x\x00y",
	})
	rep, got := check(t, in)
	want := []string{
		"error config.env:3 aws-access-token",
		"error key.pem:3 private-key",
		"error store.p12:0 pkcs12-file",
		"error with space.go:3 github-pat",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	b, err := json.Marshal(rep)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{awsKey, awsKey[4:10], ghKey, "MIIEpA"} {
		if strings.Contains(string(b), secret) {
			t.Errorf("the report shows %q", secret)
		}
	}
}

func TestFingerprintDoesNotDependOnTheSecret(t *testing.T) {
	prints := map[string]bool{}
	for _, key := range []string{ghKey, strings.Replace(ghKey, "vK9x", "wL8y", 1)} {
		rep, _ := check(t, reviewtest.Change(t, nil, map[string]string{"a.go": "const t = \"" + key + "\"\n"}))
		if len(rep.Findings) != 1 {
			t.Fatalf("got %d findings, want 1", len(rep.Findings))
		}
		prints[rep.Findings[0].Fingerprint] = true
	}
	if len(prints) != 1 {
		t.Errorf("%d fingerprints for two secrets at one place: a secret could be guessed from them", len(prints))
	}
}

func TestPiecesOverlapSoThatAKeyIsWhole(t *testing.T) {
	var lines []review.Line
	text := strings.Repeat("x", 99)
	for i := range 10_000 {
		lines = append(lines, review.Line{N: i + 1, Text: text})
	}
	lines = append(lines, review.Line{N: 20_000, Text: "alone"})
	var spans []string
	for _, p := range pieces(lines) {
		spans = append(spans, fmt.Sprintf("%d+%d", p.first, strings.Count(p.text, "\n")))
	}
	want := []string{"1+2622", "2503+2622", "5005+2622", "7507+2494", "20000+1"}
	if diff := cmp.Diff(want, spans); diff != "" {
		t.Errorf("pieces (-want +got):\n%s", diff)
	}
}

func TestKeyAcrossPiecesIsFoundOnce(t *testing.T) {
	filler := strings.Repeat(strings.Repeat("lorem ipsum ", 8)+"\n", 2640)
	in := reviewtest.Change(t, nil, map[string]string{"big.txt": filler + privateKey(30) + filler})
	_, got := check(t, in)
	want := []string{"error big.txt:2641 private-key"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestRulesThatAreBrokenSayWhichFileToMend(t *testing.T) {
	in := reviewtest.Change(t, nil, map[string]string{"a": "b\n"})
	_, err := (&Checker{Config: "[[rules]\nx"}).Check(t.Context(), in)
	if err == nil || !strings.Contains(err.Error(), "read the rules for secrets") {
		t.Errorf("error is %v", err)
	}
}

func BenchmarkRules(b *testing.B) {
	for b.Loop() {
		if _, err := newDetector(""); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHundredThousandLines(b *testing.B) {
	f := &review.FileDiff{Path: "a.go", Kind: review.Modified}
	for i := range 100_000 {
		f.Lines = append(f.Lines, review.Line{N: i + 1, Text: fmt.Sprintf("\tvalue%d := compute(token, %d) // key", i, i)})
	}
	in := &review.Input{Diff: &review.Diff{Files: []*review.FileDiff{f}}}
	c := &Checker{}
	for b.Loop() {
		if _, err := c.Check(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
}
