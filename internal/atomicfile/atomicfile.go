// Package atomicfile writes files that are there whole or not at all, whatever ends the
// process meanwhile. Nothing is forced to the disk: who reads what a machine has lost
// power over must bear a file that is cut.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// unfinished is what names of files begin with that are being written.
const unfinished = ".put-"

// Unfinished says whether a path is that of a file which Write has begun, to put it in the
// place of name.
func Unfinished(path, name string) bool {
	return filepath.Dir(path) == filepath.Dir(name) && strings.HasPrefix(filepath.Base(path), unfinished)
}

// abandoned is how old a file is at least that nobody writes any more.
const abandoned = time.Hour

// Ready makes ready to write a file later: it says now if that can't be done, and removes
// what writes have left beside it that did not come to their end.
func Ready(name string) error {
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		return &fs.PathError{Op: "write", Path: name, Err: errors.New("it is a directory")}
	}
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, unfinished+"*")
	if err != nil {
		return err
	}
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		return err
	}
	all, _ := os.ReadDir(dir) // it can be written all the same
	for _, e := range all {
		info, err := e.Info()
		if err == nil && info.Mode().IsRegular() && strings.HasPrefix(e.Name(), unfinished) && time.Since(info.ModTime()) > abandoned {
			_ = os.Remove(filepath.Join(dir, e.Name())) // it is in nobody's way
		}
	}
	return nil
}

// Write writes a file, which only its owner may read, in the place of one of its name. It
// makes the directories that are missing.
func Write(name string, content []byte) error {
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, unfinished+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
