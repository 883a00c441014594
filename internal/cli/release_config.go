package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/bightdev/bight/internal/release/client"
	"github.com/bightdev/bight/internal/release/config"
)

// mostConfig is more than a ConfigMap may have.
const mostConfig = 1 << 20

// readConfigs reads --config and --secret.
func (f *startFlags) readConfigs(w *client.Wish) error {
	for flag, all := range map[string][]string{"config": f.configs, "secret": f.secrets} {
		kind := map[string]string{"config": config.ConfigMap, "secret": config.Secret}[flag]
		for _, text := range all {
			c, err := readConfig(kind, "--"+flag, text)
			if err != nil {
				return err
			}
			w.Configs = client.Merge(w.Configs, c)
		}
	}
	return nil
}

// readConfig reads NAME=[KEY=]FILE or NAME=DIR.
func readConfig(kind, flag, text string) (client.Config, error) {
	c := client.Config{Ref: config.Ref{Kind: kind}, Text: map[string]string{}, Binary: map[string][]byte{}}
	name, path, ok := strings.Cut(text, "=")
	key, file, keyed := strings.Cut(path, "=")
	if keyed {
		path = file
	}
	if !ok || path == "" || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return c, usageError("%s %q: write NAME=FILE, NAME=KEY=FILE or NAME=DIR", flag, text)
	}
	c.Name = name
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, codedError{code: exitNotFound, err: fmt.Errorf("%s %s: there is no file %s", flag, name, path)}
	}
	if err != nil {
		return c, fmt.Errorf("read %s %s: %w", flag, name, err)
	}
	files := map[string]string{}
	switch {
	case keyed && info.IsDir():
		return c, usageError("%s %s: %s is a directory, whose files have keys of their own: leave out %s=", flag, name, path, key)
	case keyed:
		files[key] = path
	case info.IsDir():
		entries, err := os.ReadDir(path)
		if err != nil {
			return c, fmt.Errorf("read %s %s: %w", flag, name, err)
		}
		for _, e := range entries {
			if s, err := os.Stat(filepath.Join(path, e.Name())); err == nil && s.Mode().IsRegular() {
				files[e.Name()] = filepath.Join(path, e.Name())
			}
		}
		if len(files) == 0 {
			return c, usageError("%s %s: there is no file in directory %s", flag, name, path)
		}
	default:
		files[filepath.Base(path)] = path
	}
	return c, fill(&c, flag, files)
}

// fill reads files, by key.
func fill(c *client.Config, flag string, files map[string]string) error {
	size := 0
	for key, path := range files {
		if msgs := validation.IsConfigMapKey(key); len(msgs) > 0 {
			return usageError("%s %s: %q can't be a key: %s; give it another with %s %[2]s=KEY=%s", flag, c.Name, key, strings.Join(msgs, "; "), flag, path)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read %s %s: %w", flag, c.Name, err)
		}
		if size += len(content); size > mostConfig {
			return usageError("%s %s: there is more than 1 MiB, the most that a %s may have", flag, c.Name, c.Kind)
		}
		if c.Kind == config.ConfigMap && utf8.Valid(content) {
			c.Text[key] = string(content)
		} else {
			c.Binary[key] = content
		}
	}
	return nil
}
