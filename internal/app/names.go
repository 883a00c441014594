package app

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// MaxLabel is the most characters that a DNS label may have.
const MaxLabel = 63

// Label makes a DNS label of any name: lower case, dashes for what is not a
// letter or digit, a letter first. What is too long is cut and gets a short hash
// of the whole, so that two long names stay two. It returns "" when s has no
// letter or digit.
func Label(s string) string {
	var b strings.Builder
	dash := false
	for i := range len(s) {
		c := s[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			if dash && b.Len() > 0 {
				b.WriteByte('-')
			}
			dash = false
			b.WriteByte(c)
			continue
		}
		dash = true
	}
	out := b.String()
	if out == "" {
		return ""
	}
	if out[0] >= '0' && out[0] <= '9' {
		out = "s-" + out
	}
	if len(out) <= MaxLabel {
		return out
	}
	sum := sha256.Sum256([]byte(s))
	h := hex.EncodeToString(sum[:4])
	return strings.TrimRight(out[:MaxLabel-len(h)-1], "-") + "-" + h
}

// ValidLabel reports whether s can name a Kubernetes Service: a DNS label that
// starts with a letter.
func ValidLabel(s string) bool {
	if s == "" || len(s) > MaxLabel || s[0] < 'a' || s[0] > 'z' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// ValidEnvName reports whether s can be the name of an environment variable.
func ValidEnvName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '_'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '-' && c != '.') {
			return false
		}
	}
	return s != ""
}

// words splits a name at dashes, underscores, dots and changes of case, and
// lowers it: CART_SERVICE_ADDR, cart-service-addr and cartServiceAddr are alike.
func words(s string) []string {
	var out []string
	start := 0
	cut := func(end int) {
		if end > start {
			out = append(out, strings.ToLower(s[start:end]))
		}
	}
	lower := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '-' || c == '_' || c == '.' || c == ' ' || c == '/':
			cut(i)
			start = i + 1
		case i > start && c >= 'A' && c <= 'Z' && lower(s[i-1]):
			cut(i)
			start = i
		}
	}
	cut(len(s))
	return out
}

// secretWords are the words that make a variable's name that of a secret.
var secretWords = map[string]bool{
	"password": true, "passwd": true, "pwd": true, "pass": true, "passphrase": true, "secret": true, "secrets": true,
	"token": true, "tokens": true, "credential": true, "credentials": true, "key": true, "apikey": true,
	"privatekey": true, "secretkey": true, "dsn": true,
}

// plainWords, at the end of a name, say that it is only about a secret.
var plainWords = map[string]bool{
	"file": true, "path": true, "dir": true, "ttl": true, "timeout": true, "expiry": true, "expiration": true,
	"duration": true, "length": true, "size": true, "name": true, "url": true, "uri": true, "host": true,
	"addr": true, "address": true, "endpoint": true, "port": true, "issuer": true, "audience": true, "id": true,
	"header": true, "type": true, "algorithm": true, "enabled": true, "prefix": true, "count": true, "limit": true,
}

// SecretName reports whether a variable of that name holds something that must
// not be shown.
func SecretName(name string) bool {
	w := words(name)
	if len(w) == 0 || plainWords[w[len(w)-1]] {
		return false
	}
	for i, s := range w {
		if s == "key" && i > 0 && w[i-1] == "public" || s == "public" {
			return false
		}
		if secretWords[s] {
			return true
		}
	}
	return false
}
