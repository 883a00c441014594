package agent

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// adopt brings over files that the process has made in its tree, where the
// target has nothing at their place.
func (p *patch) adopt(src, dst *dir, prefix string) error {
	names, err := src.names()
	if err != nil {
		return err
	}
	for _, n := range names {
		name := prefix + n
		_, taken := p.target[name]
		if e, owned := p.have.tree[name]; owned && !e.Mode.IsDir() {
			continue
		}
		m, err := src.stat(n)
		if err != nil {
			continue // it is the process's own business
		}
		if m.mode.IsDir() {
			err = p.adoptDir(src, dst, n, name)
		} else if !taken {
			err = unix.Linkat(src.fd(), n, dst.fd(), n, 0)
		}
		if err != nil && !errors.Is(err, unix.EEXIST) && !gone(err) {
			return fmt.Errorf("keep %q, which the process made: %w", name, err)
		}
	}
	return nil
}

func (p *patch) adoptDir(src, dst *dir, n, name string) error {
	sub, err := src.sub(n)
	if err != nil {
		return err
	}
	defer sub.close()
	to, err := dst.sub(n)
	if err != nil {
		// The target has no such directory: it was the process that made it, or
		// all that the tree had in it is deleted.
		foreign, ferr := p.foreign(sub, name+"/")
		if ferr != nil || !foreign {
			return ferr
		}
		if err := dst.mkdir(n); err != nil {
			return err
		}
		if to, err = dst.sub(n); err != nil {
			return err
		}
		if err := unix.Fchmod(to.fd(), 0o755); err != nil {
			return err
		}
	}
	defer to.close()
	return p.adopt(sub, to, name+"/")
}

// foreign reports whether the process has made anything below d.
func (p *patch) foreign(d *dir, prefix string) (bool, error) {
	names, err := d.names()
	if err != nil {
		return false, err
	}
	for _, n := range names {
		m, err := d.stat(n)
		if err != nil {
			continue
		}
		if !m.mode.IsDir() {
			if _, owned := p.have.tree[prefix+n]; !owned {
				return true, nil
			}
			continue
		}
		sub, err := d.sub(n)
		if err != nil {
			return false, err
		}
		found, err := p.foreign(sub, prefix+n+"/")
		_ = sub.close()
		if found || err != nil {
			return found, err
		}
	}
	return false, nil
}
