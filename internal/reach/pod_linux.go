package reach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"github.com/bightdev/bight/internal/procnet"
	"github.com/bightdev/bight/internal/stream"
)

// dataLink is the symbolic link that kubelet exchanges to change all files of a
// mount at once.
const dataLink = "..data"

// servePod sends what the process was given.
func (v *Server) servePod(ctx context.Context, st *stream.Stream) error {
	p, err := v.pod(ctx)
	if err != nil {
		p = &Pod{Error: err.Error()}
	}
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if _, err := st.Write(b); err != nil {
		return err
	}
	return st.CloseWrite()
}

// pod finds out what there is to find out.
func (v *Server) pod(ctx context.Context) (*Pod, error) {
	process, err := v.process(ctx)
	if err != nil {
		return nil, err
	}
	p := &Pod{}
	if p.Env, err = v.environment(process); err != nil {
		return nil, err
	}
	note := func(err error) {
		if err != nil {
			p.Notes = append(p.Notes, err.Error())
		}
	}
	var id identity
	id, p.Hostname, err = identify(process)
	p.UID, p.GID, p.Groups = id.uid, id.gid, id.groups
	note(err)
	p.Dir, err = process.Dir()
	note(err)
	p.ResolvConf, err = content(process, "/etc/resolv.conf")
	note(err)
	p.Hosts, err = content(process, "/etc/hosts")
	note(err)
	p.Mounts, err = v.mounts(process)
	note(err)
	p.Listening, err = listening(process)
	note(err)
	p.IPv6, err = withIPv6(process)
	note(err)
	return p, nil
}

// environment is the container's, without our own variables.
func (v *Server) environment(p Process) ([]Variable, error) {
	all, err := p.Environ()
	if err != nil {
		return nil, err
	}
	var env []Variable
	for _, kv := range all {
		name, value, ok := strings.Cut(kv, "=")
		if ok && name != "" && !slices.Contains(v.Hidden, name) {
			env = append(env, Variable{name, value})
		}
	}
	return env, nil
}

// mounts lists where the process finds files.
func (v *Server) mounts(p Process) ([]Mount, error) {
	text, err := p.Proc("mountinfo")
	if err != nil {
		return nil, err
	}
	infos, err := parseMountInfo(string(text))
	if err != nil {
		return nil, err
	}
	var all []Mount
	for _, info := range infos {
		written := info.versioned()
		if !written && info.inMemory() {
			written = versionOf(p, info.point) != ""
		}
		m, ok := info.mount(v.Own, written)
		if !ok {
			continue
		}
		m.File = isFile(p, m.Path)
		all = append(all, m)
	}
	return all, nil
}

func isFile(p Process, path string) bool {
	f, err := p.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	st, err := f.Stat()
	return err == nil && !st.IsDir()
}

// withIPv6 says whether a process's network has an address of IPv6 that others can have to
// do with.
func withIPv6(p Process) (bool, error) {
	text, err := p.Proc("net/if_inet6")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return anyGlobal(string(text)), err
}

// anyGlobal says whether one of the addresses of /proc/net/if_inet6 is of global scope, which
// is 0 there: address, index, length of the prefix, scope, flags, device.
func anyGlobal(table string) bool {
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) == 6 && f[3] == "00" {
			return true
		}
	}
	return false
}

// listening lists the addresses that anyone in the pod listens on.
func listening(p Process) ([]netip.AddrPort, error) {
	var all []netip.AddrPort
	for _, name := range []string{"net/tcp", "net/tcp6"} {
		text, err := p.Proc(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return all, err
		}
		some, err := procnet.Listening(string(text))
		if err != nil {
			return all, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, some...)
	}
	return all, nil
}
