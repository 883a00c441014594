package podview

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/bightdev/bight/internal/reach"
)

// OfApp leaves out what a container's runtime and Kubernetes give to every process: its
// places, its name, and the addresses of the API server, for whose token there is no
// file outside of the pod.
func OfApp(env []reach.Variable) []reach.Variable {
	return slices.DeleteFunc(slices.Clone(env), func(v reach.Variable) bool {
		return v.Name == "PATH" || v.Name == "HOME" || v.Name == "HOSTNAME" || v.Name == "KUBERNETES_PORT" ||
			strings.HasPrefix(v.Name, "KUBERNETES_SERVICE_") || strings.HasPrefix(v.Name, "KUBERNETES_PORT_")
	})
}

// WriteDotenv writes an environment as lines NAME=value that a POSIX shell can
// source and that the common readers of .env files understand the same way, as
// far as one quoting can please all: values with a single quote and one of
// $ ` " \ follow the shell. A variable that a shell can't have because of its
// name is left as a comment, without its value.
func WriteDotenv(w io.Writer, env []reach.Variable) error {
	var b bytes.Buffer
	for _, v := range env {
		if !shellName(v.Name) {
			fmt.Fprintf(&b, "# %q is left out: a shell has no variable of that name\n", v.Name)
			continue
		}
		b.WriteString(v.Name + "=" + quote(v.Value) + "\n")
	}
	_, err := w.Write(b.Bytes())
	return err
}

func shellName(s string) bool {
	for i, c := range []byte(s) {
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// quote chooses the plainest quoting that keeps the value.
func quote(s string) string {
	const plain = "_-./:,@%+="
	bare := strings.IndexFunc(s, func(r rune) bool {
		return r >= utf8.RuneSelf || !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(plain, r))
	}) < 0
	switch {
	case s == "":
		return "''" // nothing at all would do, and looks like a mistake
	case bare:
		return s
	case !strings.Contains(s, "'"):
		return "'" + s + "'"
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(s) + `"`
}

// WriteJSON writes an environment as one object of strings. A variable that JSON
// can't hold, because it is no UTF-8, is an error that names it.
func WriteJSON(w io.Writer, env []reach.Variable) error {
	object := map[string]string{}
	for _, v := range env {
		if !utf8.ValidString(v.Name) || !utf8.ValidString(v.Value) {
			return fmt.Errorf("variable %q is not UTF-8, which JSON can't hold; write the environment as dotenv", v.Name)
		}
		object[v.Name] = v.Value
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(object)
}
