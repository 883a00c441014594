package deploy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/bightdev/bight/internal/app"
)

// settings are the variables that a service's process is given.
type settings struct {
	plain, secret         map[string]string
	plainFrom, secretFrom []string // one line per variable: where it was read
}

// settingsOf collects what s is given: links first, the addresses of its own
// ports, and over both whatever the app sets by name.
func settingsOf(s *app.Service) settings {
	set := settings{plain: map[string]string{}, secret: map[string]string{}}
	isSecret := func(name string) bool {
		return slices.ContainsFunc(s.Env, func(e app.EnvVar) bool { return e.Name == name && e.Secret })
	}
	from := map[string]string{}
	give := func(name, value string, read app.From) {
		if isSecret(name) {
			set.secret[name] = value
		} else {
			set.plain[name] = value
		}
		from[name] = at(read)
	}
	for _, p := range s.Ports {
		if v, ok := portValue(s, p); ok {
			give(p.Env, v, p.From)
		}
	}
	for _, l := range s.Links {
		if l.Env != "" {
			give(l.Env, l.Value, l.From)
		}
	}
	for _, e := range s.Env {
		if e.Set {
			give(e.Name, e.Value, e.From)
		}
	}
	set.plainFrom, set.secretFrom = fromLines(set.plain, from), fromLines(set.secret, from)
	return set
}

func fromLines(values, from map[string]string) []string {
	var lines []string
	for name := range values {
		lines = append(lines, name+": "+from[name])
	}
	slices.Sort(lines)
	return lines
}

// portValue is what the variable that sets p is given, in the form that the
// code's default has: "8080", ":8080" or "0.0.0.0:8080". A default that only
// listens on loopback would not be reached by anyone. A form that is not
// understood is left to the code.
func portValue(s *app.Service, p app.Port) (string, bool) {
	if p.Env == "" {
		return "", false
	}
	number := strconv.Itoa(p.Number)
	i := slices.IndexFunc(s.Env, func(e app.EnvVar) bool { return e.Name == p.Env })
	if i < 0 || s.Env[i].Default == "" {
		return number, true
	}
	def := s.Env[i].Default
	if _, err := strconv.Atoi(def); err == nil {
		return number, true
	}
	colon := strings.LastIndexByte(def, ':')
	if colon < 0 {
		return "", false
	}
	if _, err := strconv.Atoi(def[colon+1:]); err != nil {
		return "", false
	}
	switch host := def[:colon]; host {
	case "localhost", "127.0.0.1", "[::1]":
		return ":" + number, true
	default:
		return host + ":" + number, true
	}
}

// digest identifies the settings for the pods: a pod with other settings than
// its Deployment's is replaced.
func (set settings) digest(token string) string {
	b, err := json.Marshal([]any{set.plain, set.secret, token})
	if err != nil {
		panic("deploy: strings do not marshal: " + err.Error()) // impossible: maps of strings
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

func secretData(values map[string]string) map[string][]byte {
	data := make(map[string][]byte, len(values))
	for k, v := range values {
		data[k] = []byte(v)
	}
	return data
}

// checkSettings refuses variables that no object can carry.
func checkSettings(s *app.Service) []error {
	var errs []error
	check := func(what, name, value string, from app.From) {
		if name == "" {
			return
		}
		if msgs := validation.IsConfigMapKey(name); len(msgs) > 0 {
			errs = append(errs, fmt.Errorf("service %s (%s): %s %q cannot be set: %s", s.Name, at(from), what, name, strings.Join(msgs, "; ")))
		}
		if !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
			errs = append(errs, fmt.Errorf("service %s (%s): the value of %s %s is no text: it has bytes that are not UTF-8, or a zero byte", s.Name, at(from), what, name))
		}
	}
	for _, e := range s.Env {
		if e.Set {
			check("variable", e.Name, e.Value, e.From)
		}
	}
	for _, l := range s.Links {
		check("variable", l.Env, l.Value, l.From)
		check("flag", l.Flag, l.Value, l.From)
	}
	for _, p := range s.Ports {
		check("variable", p.Env, "", p.From)
	}
	return errs
}

// arguments are what follows the service's command: its own, then a flag for
// each link that is carried by one and that its own do not set already.
func arguments(s *app.Service) []string {
	args := slices.Clone(s.Args)
	for _, l := range s.Links {
		if l.Flag != "" && !s.HasFlag(l.Flag) {
			args = append(args, "--"+l.Flag+"="+l.Value)
		}
	}
	return args
}

// literal keeps Kubernetes from expanding $(NAME) in a command.
func literal(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = strings.ReplaceAll(a, "$", "$$")
	}
	return out
}

// at says where a fact was read.
func at(f app.From) string {
	switch {
	case f.File == "":
		return "no file"
	case f.Line == 0:
		return f.File
	default:
		return f.File + ":" + strconv.Itoa(f.Line)
	}
}

// notes makes an annotation of lines, or none of none.
func notes(key string, lines []string) map[string]string {
	if len(lines) == 0 {
		return map[string]string{}
	}
	return map[string]string{key: strings.Join(lines, "\n")}
}

func portNotes(s *app.Service) []string {
	var lines []string
	for _, p := range s.Ports {
		lines = append(lines, fmt.Sprintf("%s %d: %s", p.Name, p.Number, at(p.From)))
	}
	return lines
}

func linkNotes(s *app.Service) []string {
	var lines []string
	for _, l := range s.Links {
		carrier := l.Env
		if carrier == "" {
			carrier = "--" + l.Flag
		}
		lines = append(lines, fmt.Sprintf("%s -> %s: %s", carrier, l.To, at(l.From)))
	}
	return lines
}
