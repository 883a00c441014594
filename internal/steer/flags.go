package steer

import (
	"errors"
	"fmt"
	"strings"
)

const headerExample = "for example --header x-user=anna, or --header x-user=ann* for a beginning"

// ParseHeader reads what follows --header: name=value, with a star at its end for
// a value that may go on.
func ParseHeader(flag string) (HeaderMatch, error) {
	name, value, ok := strings.Cut(flag, "=")
	if !ok {
		if n, v, colon := strings.Cut(flag, ":"); colon && n != "" {
			return HeaderMatch{}, fmt.Errorf("--header %q has no \"=\": write --header %s=%s", flag, strings.TrimSpace(n), strings.TrimSpace(v))
		}
		return HeaderMatch{}, fmt.Errorf("--header %q is not NAME=VALUE: %s", flag, headerExample)
	}
	h := HeaderMatch{Name: strings.ToLower(strings.TrimSpace(name)), Value: strings.TrimSpace(value)}
	h.Value, h.Prefix = strings.CutSuffix(h.Value, "*")
	if err := h.check(); err != nil {
		return HeaderMatch{}, fmt.Errorf("--header %q: %w", flag, err)
	}
	return h, nil
}

func (h HeaderMatch) check() error {
	switch {
	case h.Name == "":
		return errors.New("the header has no name: " + headerExample)
	case strings.HasPrefix(h.Name, ":"):
		return fmt.Errorf("%q is not a header: use --path for the path, and the name \"host\" for the host", h.Name)
	case !isToken(h.Name):
		return fmt.Errorf("%q can't be a header's name: letters, digits and dashes only", h.Name)
	case h.Value == "" && !h.Prefix:
		return fmt.Errorf("the header %s has no value: write %s=VALUE, or %s=* for any value", h.Name, h.Name, h.Name)
	case len(h.Name) > 256 || len(h.Value) > 4096:
		return fmt.Errorf("the header %.40s is too long: 256 bytes of name and 4096 of value are the most", h.Name)
	}
	for _, b := range []byte(h.Value) {
		if b < ' ' && b != '\t' || b == 0x7f {
			return fmt.Errorf("the value of %s has the byte %#02x, which no header can have", h.Name, b)
		}
	}
	return nil
}

// ParsePath reads what follows --path: the beginning of paths, in whole elements.
// "/api" is true of /api and /api/cart, not of /apis.
func ParsePath(flag string) (string, error) {
	if flag == "" {
		return "", errors.New("--path is empty: give the beginning of the path, for example --path /api")
	}
	if err := checkPath(flag); err != nil {
		return "", fmt.Errorf("--path %q: %w", flag, err)
	}
	return elements(flag), nil
}

func checkPath(path string) error {
	switch {
	case path == "":
		return nil
	case path[0] != '/':
		return fmt.Errorf("a path begins with a slash: write /%s", path)
	case len(path) > 4096:
		return errors.New("the path is longer than 4096 bytes")
	case strings.HasSuffix(path, "*"):
		return fmt.Errorf("a path matches everything below it anyway: write %s", strings.TrimRight(path, "/*")+"/")
	case strings.ContainsAny(path, "?#"):
		return errors.New("queries and fragments can't be matched: leave out what follows the path")
	}
	for _, b := range []byte(path) {
		if b <= ' ' || b >= 0x7f {
			return fmt.Errorf("the path has the byte %#02x: write it as in a URL, %%%02X", b, b)
		}
	}
	return nil
}

func isToken(s string) bool {
	for i := range len(s) {
		if !tokenByte(s[i]) {
			return false
		}
	}
	return s != ""
}

func tokenByte(b byte) bool {
	switch {
	case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-.^_`|~", b) >= 0
}
