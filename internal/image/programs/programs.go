// Package programs takes programs of this machine, with the libraries that they want,
// as files for an image that has nothing else.
//
// The main entry is [Collect]. It keeps no state.
package programs

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bightdev/bight/internal/tree"
)

// Collect returns the programs and everything that they need to start, by path below
// the root of a file system. It fails for what is no program for Linux on arch, a
// GOARCH.
func Collect(arch string, programs ...string) (tree.Tree, error) {
	c := &collector{out: tree.Tree{}, machine: machines()[arch]}
	if c.machine == 0 {
		return nil, fmt.Errorf("programs for %s are not known here", arch)
	}
	for _, p := range programs {
		if err := c.add(p); err != nil {
			return nil, err
		}
	}
	return c.out, nil
}

func machines() map[string]elf.Machine {
	return map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
}

type collector struct {
	out     tree.Tree
	machine elf.Machine
	hashes  *tree.Cache
}

// add takes a file, what it is a link to, and what it needs.
func (c *collector) add(name string) error {
	name = filepath.Clean(name)
	key := strings.TrimPrefix(filepath.ToSlash(name), "/")
	if _, ok := c.out[key]; ok {
		return nil
	}
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		return fmt.Errorf("take %s: %w", name, err)
	}
	entry, err := c.hashes.Stat(real)
	if err != nil {
		return fmt.Errorf("take %s: %w", name, err)
	}
	if !entry.Mode.IsRegular() {
		return fmt.Errorf("take %s: it is no file", name)
	}
	entry.Mode = 0o755
	c.out[key] = entry
	return c.needs(real)
}

// needs adds the loader and the libraries of a program.
func (c *collector) needs(file string) error {
	f, err := elf.Open(file)
	var format *elf.FormatError
	if errors.As(err, &format) {
		return fmt.Errorf("take %s: it is a script or no program for Linux", file)
	}
	if err != nil {
		return fmt.Errorf("take %s: %w", file, err)
	}
	defer f.Close()
	if f.Machine != c.machine {
		return fmt.Errorf("take %s: it is for %s, not %s", file, f.Machine, c.machine)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			return fmt.Errorf("take %s: %w", file, err)
		}
		if err := c.add(strings.TrimRight(string(b), "\x00")); err != nil {
			return err
		}
	}
	wanted, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("take %s: %w", file, err)
	}
	runpath, _ := f.DynString(elf.DT_RUNPATH)
	for _, lib := range wanted {
		at, err := c.find(lib, file, runpath)
		if err != nil {
			return err
		}
		if err := c.add(at); err != nil {
			return err
		}
	}
	return nil
}

// find returns where a library is, in the directories in which the loader looks
// without being told.
func (c *collector) find(lib, file string, runpath []string) (string, error) {
	triplet := map[elf.Machine]string{elf.EM_X86_64: "x86_64-linux-gnu", elf.EM_AARCH64: "aarch64-linux-gnu"}[c.machine]
	var dirs []string
	for _, r := range runpath {
		for dir := range strings.SplitSeq(r, ":") {
			dirs = append(dirs, strings.ReplaceAll(dir, "$ORIGIN", filepath.Dir(file)))
		}
	}
	dirs = append(dirs, "/lib/"+triplet, "/usr/lib/"+triplet, "/lib64", "/usr/lib64", "/lib", "/usr/lib")
	i := slices.IndexFunc(dirs, func(dir string) bool {
		info, err := os.Stat(filepath.Join(dir, lib))
		return err == nil && info.Mode().IsRegular()
	})
	if i < 0 {
		return "", fmt.Errorf("take %s: its library %s is in none of %s: %w", file, lib, strings.Join(dirs, ", "), fs.ErrNotExist)
	}
	return filepath.Join(dirs[i], lib), nil
}
