package bearer

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
)

// longest is more than a token of a service account is.
const longest = 16 << 10

// Claims are what a token says of itself. Nobody has confirmed it: it is good for refusing a token, never for taking one.
type Claims struct {
	Subject   string    `json:"sub"`
	Audiences audiences `json:"aud"`
	Expires   int64     `json:"exp"` // Unix time in seconds, 0 for never
}

// For says whether a token is made for an audience.
func (c Claims) For(audience string) bool { return slices.Contains(c.Audiences, audience) }

// audiences are one or many, by the standard.
type audiences []string

// UnmarshalJSON implements [json.Unmarshaler].
func (a *audiences) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = audiences{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(a))
}

// Read returns what a token says of itself; ok is false for one that is no JWT.
func Read(token string) (c Claims, ok bool) {
	parts := strings.Split(token, ".")
	if len(token) > longest || len(parts) != 3 {
		return c, false
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(text, &c) != nil {
		return Claims{}, false
	}
	return c, true
}
