package podview

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/reach"
)

// values that have given somebody trouble.
func values() []string {
	return []string{
		"", "plain", "a b", " lead and trail ", "it's", `say "hi"`, `it's "both"`, "$HOME", "`id`", "$(id)", `C:\dir\new`, `\`, `'\''`,
		"two\nlines", "it's\ntwo", "tab\there", "#no comment", "a=b=c", "a #b", "*", "~", "!history", "{a,b}", "é ü 日本", "\xff\xfe", "it's $5 \\ `x`",
		"-----BEGIN KEY-----\nabc+/=\n-----END KEY-----\n", "trailing\\", "a\r\nb", "postgres://u:p%40ss@db:5432/shop?sslmode=off",
	}
}

func TestShellReadsDotenvBack(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "env")
	for _, want := range values() {
		var b bytes.Buffer
		if err := WriteDotenv(&b, []reach.Variable{{Name: "VALUE", Value: want}, {Name: "AFTER", Value: "after"}}); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(sh, "-euc", `. "$1"; printf '%s|%s' "$VALUE" "$AFTER"`, "sh", file).CombinedOutput()
		if err != nil || string(out) != want+"|after" {
			t.Errorf("%q as %q: the shell has %q, %v", want, b.String(), out, err)
		}
	}
}

// Readers of .env files know less than a shell: no '\”.
func TestDotenvForms(t *testing.T) {
	for _, tt := range []struct{ name, value, want string }{
		{"A", "plain", "A=plain\n"},
		{"A", "", "A=''\n"},
		{"A", "a b", "A='a b'\n"},
		{"A", `"$x" \n`, `A='"$x" \n'` + "\n"},
		{"A", "it's", `A="it's"` + "\n"},
		{"A", "it's $5", `A="it's \$5"` + "\n"},
		{"A", "1\n2", "A='1\n2'\n"},
		{"a.b", "secret", "# \"a.b\" is left out: a shell has no variable of that name\n"},
		{"1A", "secret", "# \"1A\" is left out: a shell has no variable of that name\n"},
		{"A\nB", "secret", "# \"A\\nB\" is left out: a shell has no variable of that name\n"},
		{"", "secret", "# \"\" is left out: a shell has no variable of that name\n"},
	} {
		var b bytes.Buffer
		if err := WriteDotenv(&b, []reach.Variable{{Name: tt.name, Value: tt.value}}); err != nil || b.String() != tt.want {
			t.Errorf("%s=%q: %q, %v, want %q", tt.name, tt.value, b.String(), err, tt.want)
		}
	}
}

func TestJSONIsReadBack(t *testing.T) {
	want := map[string]string{"a.b": "<&>", "A": "it's\n\"x\"", "E": ""}
	var env []reach.Variable
	for k, v := range want {
		env = append(env, reach.Variable{Name: k, Value: v})
	}
	var b bytes.Buffer
	if err := WriteJSON(&b, env); err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("through %s (-want +got):\n%s", b.String(), diff)
	}
	if !strings.Contains(b.String(), "<&>") {
		t.Errorf("escaped for HTML: %s", b.String())
	}
	if err := WriteJSON(&b, []reach.Variable{{Name: "RAW", Value: "\xff"}}); err == nil || !strings.Contains(err.Error(), "RAW") {
		t.Errorf("error %v", err)
	}
}

func TestOfAppLeavesOutWhatEveryContainerHas(t *testing.T) {
	var env []reach.Variable
	for _, name := range []string{
		"PATH", "HOSTNAME", "HOME", "GREETING", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT_HTTPS", "KUBERNETES_PORT",
		"KUBERNETES_PORT_443_TCP_ADDR", "KUBERNETES_NAMESPACE", "CART_SERVICE_HOST", "HOMEPAGE",
	} {
		env = append(env, reach.Variable{Name: name, Value: "x"})
	}
	var got []string
	for _, v := range OfApp(env) {
		got = append(got, v.Name)
	}
	if diff := cmp.Diff([]string{"GREETING", "KUBERNETES_NAMESPACE", "CART_SERVICE_HOST", "HOMEPAGE"}, got); diff != "" || len(env) != 11 {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
