package suite

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/mod/modfile"
)

// key makes a digest of a list of strings.
type key struct{ h hash.Hash }

func newKey(parts ...string) *key {
	k := &key{sha256.New()}
	k.add("bight suite 1")
	k.add(parts...)
	return k
}

func (k *key) add(parts ...string) {
	for _, p := range parts {
		k.h.Write([]byte(strconv.Itoa(len(p))))
		k.h.Write([]byte{':'})
		k.h.Write([]byte(p))
	}
}

func (k *key) sum() string { return hexSum(k.h.Sum(nil)) }

// hashes are digests of files, each read once.
type hashes struct {
	root              string
	packages, modules map[string]bool // directories of Go's that below leaves to their own tests

	mu    sync.Mutex
	files map[string]string
	trees map[string]string
}

func newHashes(root string) *hashes {
	return &hashes{root: root, packages: map[string]bool{}, modules: map[string]bool{}, files: map[string]string{}, trees: map[string]string{}}
}

func (h *hashes) file(path string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fileLocked(path)
}

func (h *hashes) fileLocked(path string) (string, error) {
	if sum, ok := h.files[path]; ok {
		return sum, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no regular file", path)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	digest := hexSum(sum.Sum(nil))
	if info.Mode().Perm()&0o111 != 0 { // all that git keeps of a mode
		digest += " x"
	}
	h.files[path] = digest
	return digest, nil
}

// below is the digest of all in a package's directory, as tree has it, but for other
// modules there and the sources of other packages.
func (h *hashes) below(path string) (string, error) { return h.walk(path, own, h.fileLocked) }

// tree is the digest of all below a directory (or of a file), but for what git and
// package managers keep there.
func (h *hashes) tree(path string) (string, error) { return h.walk(path, deep, h.fileLocked) }

// names is the digest of the names of all that tree is about, of links' targets, and of
// which files are programs.
func (h *hashes) names(path string) (string, error) {
	return h.walk(path, bare, func(path string) (string, error) {
		info, err := os.Lstat(path)
		if err == nil && info.Mode().Perm()&0o111 != 0 {
			return "x", nil
		}
		return "", err
	})
}

// depth is how far a walk goes.
type depth string

const (
	own  depth = "own" // deep, without what other Go packages and modules are made of
	deep depth = "deep"
	bare depth = "bare" // deep, without the files' contents
)

// skipped are directories below root that no key covers.
func skipped(name string) bool { return name == ".git" || name == "node_modules" }

func (h *hashes) walk(root string, how depth, file func(path string) (string, error)) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := string(how) + " " + root
	if sum, ok := h.trees[id]; ok {
		return sum, nil
	}
	k := newKey()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		closed := path != root && errors.Is(err, fs.ErrPermission) // for the tests, too
		if err != nil && !closed {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		switch {
		case closed:
			k.add("closed", rel)
			return filepath.SkipDir
		case d.IsDir() && path != root && (skipped(d.Name()) || how == own && h.modules[path]):
			return filepath.SkipDir
		case d.IsDir() || d.Name() == ".git":
			return nil
		case how == own && filepath.Dir(path) != root && h.packages[filepath.Dir(path)] && strings.HasSuffix(path, ".go"):
			return nil
		case d.Type() == fs.ModeSymlink:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			k.add("link", rel, to)
		case d.Type().IsRegular():
			sum, err := file(path)
			if errors.Is(err, fs.ErrPermission) {
				sum = "closed"
			} else if err != nil {
				return err
			}
			k.add("file", rel, sum)
		}
		return nil // sockets and devices are nobody's input
	})
	if err != nil {
		return "", err
	}
	h.trees[id] = k.sum()
	return h.trees[id], nil
}

// moduleSettings are the parts of a go.mod that change what any of its packages
// does. The modules it requires count only for the packages that use them.
func moduleSettings(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	f, err := modfile.Parse(path, data, nil)
	if err != nil {
		return nil, err
	}
	out := []string{"go.mod"}
	if f.Go != nil {
		out = append(out, f.Go.Version)
	}
	for _, g := range f.Godebug {
		out = append(out, g.Key+"="+g.Value)
	}
	return out, nil
}

// kept are the variables of the worker that the toolchain needs. Everything else,
// and with it every credential, is left out of the tests' environment.
var kept = []string{
	"PATH", "LANG", "LC_ALL", "TZ", "GOROOT", "GOFLAGS", "GOPROXY", "GONOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE",
	"GOTOOLCHAIN", "GOOS", "GOARCH", "GOAMD64", "GOARM64", "GOEXPERIMENT", "GODEBUG", "GOWORK", "CGO_ENABLED", "CC", "CXX", "SystemRoot",
}

// environment is that of the tests, but for directories of their own.
func (s Source) environment(get func(string) string) []string {
	var out []string
	for _, name := range append(append([]string(nil), kept...), s.Env...) {
		if v := get(name); v != "" {
			if name == "GOPROXY" {
				v = withoutPasswords(v)
			}
			out = append(out, name+"="+v)
		}
	}
	home, _ := os.UserHomeDir() // without one the go command says what it needs
	path := get("GOPATH")
	if path == "" {
		path = filepath.Join(home, "go")
	}
	cache, mods := get("GOCACHE"), get("GOMODCACHE")
	if cache == "" {
		if dir, err := os.UserCacheDir(); err == nil {
			cache = filepath.Join(dir, "go-build")
		}
	}
	if mods == "" {
		mods = filepath.Join(filepath.SplitList(path)[0], "pkg", "mod")
	}
	if settings := get("GOENV"); settings != "" {
		out = append(out, "GOENV="+settings)
	} else if dir, err := os.UserConfigDir(); err == nil { // what `go env -w` wrote, also with another HOME
		out = append(out, "GOENV="+filepath.Join(dir, "go", "env"))
	}
	out = append(out, "HOME="+home, "GOPATH="+path, "GOCACHE="+cache, "GOMODCACHE="+mods, "GOTELEMETRY=off")
	return append(out, s.Fixed...)
}

// withoutPasswords takes user names and passwords out of a list of proxies.
func withoutPasswords(proxies string) string {
	if !strings.Contains(proxies, "@") {
		return proxies
	}
	parts := strings.FieldsFunc(proxies, func(r rune) bool { return r == ',' || r == '|' })
	for i, p := range parts {
		if scheme, rest, ok := strings.Cut(p, "://"); ok {
			if host := strings.LastIndex(rest, "@"); host >= 0 {
				rest = rest[host+1:]
			}
			parts[i] = scheme + "://" + rest
		}
	}
	return strings.Join(parts, ",")
}

// keyEnv are the variables whose values count for keys.
func (s Source) keyEnv(env []string) []string {
	var out []string
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		for _, want := range append([]string{"LANG", "LC_ALL", "TZ", "GODEBUG"}, s.Env...) {
			if name == want {
				out = append(out, e)
			}
		}
	}
	return out
}
