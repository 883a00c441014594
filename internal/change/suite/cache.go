package suite

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Trust says whose word an entry of the cache is.
type Trust string

const (
	// Trusted is the app's own branches.
	Trusted Trust = "trusted"
	// Untrusted is a change from outside, a fork's. It may read what trusted ones
	// wrote; what it writes is read by untrusted ones alone.
	Untrusted Trust = "untrusted"
)

// Store keeps bytes by name: "trusted/<key>". Implementations are safe for
// concurrent use. A name that is not there is os.ErrNotExist.
type Store interface {
	Get(ctx context.Context, name string) ([]byte, error)
	Put(ctx context.Context, name string, data []byte) error
}

// Cache has the results of units by their keys. It believes nothing that it reads:
// an entry whose content does not have the digest that it names, or that is
// another's, is a miss and reported.
type Cache struct {
	Store Store
}

// entry is what the store keeps.
type entry struct {
	Sum  string          `json:"sum"` // of Body
	Body json.RawMessage `json:"body"`
}

type body struct {
	Key    string     `json:"key"`
	Trust  Trust      `json:"trust"`
	From   string     `json:"from"` // who ran it: "change 3f2a"
	Result UnitResult `json:"result"`
	// Read is what the tests have read of the source: digests of files by their paths
	// relative to its root, with slashes. The key is a shape then.
	Read map[string]string `json:"read,omitempty"`
}

// Get returns the result kept under a key that a reader of the given trust may
// believe, and who ran it. An error is a miss too; it tells of a corrupt entry or a
// store that does not answer.
func (c *Cache) Get(ctx context.Context, trust Trust, key string) (res UnitResult, from string, ok bool, err error) {
	return c.find(ctx, trust, key, func(read map[string]string) bool { return read == nil })
}

// Unread is Get for a unit whose tests were seen reading, by its shape: the result of tests
// that have read nothing but what is in the source still, as same says. What else has
// changed they did not look at.
func (c *Cache) Unread(ctx context.Context, trust Trust, shape string, same func(read map[string]string) bool) (res UnitResult, from string, ok bool, err error) {
	return c.find(ctx, trust, shape, func(read map[string]string) bool { return read != nil && same(read) })
}

func (c *Cache) find(ctx context.Context, trust Trust, key string, valid func(read map[string]string) bool) (res UnitResult, from string, ok bool, err error) {
	classes := []Trust{Trusted}
	if trust != Trusted {
		classes = append(classes, Untrusted)
	}
	var errs []error
	for _, class := range classes {
		b, err := c.get(ctx, class, key)
		if err == nil && valid(b.Read) {
			return b.Result, b.From, true, errors.Join(errs...)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return UnitResult{}, "", false, errors.Join(errs...)
}

func (c *Cache) get(ctx context.Context, class Trust, key string) (body, error) {
	name := string(class) + "/" + key
	data, err := c.Store.Get(ctx, name)
	if err != nil {
		return body{}, fmt.Errorf("read the cached result %s: %w", name, err)
	}
	bad := func(why string) (body, error) {
		return body{}, fmt.Errorf("the cached result %s is corrupt (%s): the tests run again and replace it", name, why)
	}
	var e entry
	if err := json.Unmarshal(data, &e); err != nil {
		return bad(err.Error())
	}
	sum := sha256.Sum256(e.Body)
	if hexSum(sum[:]) != e.Sum {
		return bad("its digest differs")
	}
	var b body
	if err := json.Unmarshal(e.Body, &b); err != nil {
		return bad(err.Error())
	}
	switch {
	case b.Key != key || b.Result.Key != key:
		return bad("it belongs to other inputs")
	case b.Trust != class:
		return bad("it was written as " + string(b.Trust))
	case b.Result.Status != Passed:
		return bad("it did not pass")
	}
	return b, nil
}

// Put keeps a result that passed. Anything else is run again when it is asked for.
func (c *Cache) Put(ctx context.Context, trust Trust, from string, res UnitResult) error {
	return c.put(ctx, trust, from, res, nil)
}

// PutRead keeps a result that passed by the unit's shape, with what its tests have read.
// It takes the place of an earlier one.
func (c *Cache) PutRead(ctx context.Context, trust Trust, from, shape string, res UnitResult, read map[string]string) error {
	res.Key = shape
	return c.put(ctx, trust, from, res, read)
}

func (c *Cache) put(ctx context.Context, trust Trust, from string, res UnitResult, read map[string]string) error {
	if res.Status != Passed || res.Cached != "" {
		return nil
	}
	if trust != Trusted {
		trust = Untrusted
	}
	data, err := json.Marshal(body{Key: res.Key, Trust: trust, From: from, Result: res, Read: read})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	data, err = json.Marshal(entry{hexSum(sum[:]), data})
	if err != nil {
		return err
	}
	if err := c.Store.Put(ctx, string(trust)+"/"+res.Key, data); err != nil {
		return fmt.Errorf("keep the result of %s: %w", res.Name, err)
	}
	return nil
}

// Dir is a Store in a directory. Entries appear whole or not at all.
type Dir string

func (d Dir) path(name string) (string, error) {
	if !filepath.IsLocal(name) || strings.Contains(name, "\\") {
		return "", fmt.Errorf("%q is no name of a cache entry", name)
	}
	return filepath.Join(string(d), name), nil
}

func (d Dir) Get(_ context.Context, name string) ([]byte, error) {
	path, err := d.path(name)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

func (d Dir) Put(_ context.Context, name string, data []byte) error {
	path, err := d.path(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // not there any more when all went well
	if _, err := f.Write(data); err != nil {
		_ = f.Close() // the write's error tells more
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
