package reach

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bightdev/bight/internal/stream"
)

// dataLink is the symbolic link that kubelet exchanges to change all files of a
// mount at once.
const dataLink = "..data"

// servePod sends what the process was given.
func (v *Server) servePod(st *stream.Stream) error {
	b, err := json.Marshal(v.pod())
	if err != nil {
		return err
	}
	if _, err := st.Write(b); err != nil {
		return err
	}
	return st.CloseWrite()
}

// pod finds out what there is to find out.
func (v *Server) pod() *Pod {
	p := &Pod{UID: os.Getuid(), GID: os.Getgid(), Env: v.environment()}
	note := func(err error) {
		if err != nil {
			p.Notes = append(p.Notes, err.Error())
		}
	}
	var err error
	p.Hostname, err = os.Hostname()
	note(err)
	p.Dir, err = os.Getwd()
	note(err)
	p.Groups, err = os.Getgroups()
	note(err)
	etc := cmp.Or(v.etc, "/etc")
	p.ResolvConf, err = content(filepath.Join(etc, "resolv.conf"))
	note(err)
	p.Hosts, err = content(filepath.Join(etc, "hosts"))
	note(err)
	p.Mounts, err = v.mounts()
	note(err)
	p.Listening, err = v.listening()
	note(err)
	return p
}

func content(name string) (string, error) {
	b, err := os.ReadFile(name)
	return string(b), err
}

// environment is that of this process, which is the container's, without our own
// variables.
func (v *Server) environment() []Variable {
	var env []Variable
	for _, kv := range os.Environ() {
		name, value, ok := strings.Cut(kv, "=")
		if ok && name != "" && !slices.Contains(v.Hidden, name) {
			env = append(env, Variable{name, value})
		}
	}
	return env
}

func (v *Server) procFile(name string) string {
	return filepath.Join(cmp.Or(v.proc, "/proc/self"), name)
}

// mounts lists where the process finds files.
func (v *Server) mounts() ([]Mount, error) {
	text, err := content(v.procFile("mountinfo"))
	if err != nil {
		return nil, err
	}
	infos, err := parseMountInfo(text)
	if err != nil {
		return nil, err
	}
	var all []Mount
	for _, info := range infos {
		written := info.versioned()
		if !written && info.inMemory() {
			_, err := os.Readlink(filepath.Join(info.point, dataLink))
			written = err == nil
		}
		m, ok := info.mount(v.Own, written)
		if !ok {
			continue
		}
		if st, err := os.Stat(m.Path); err == nil {
			m.File = !st.IsDir()
		}
		all = append(all, m)
	}
	return all, nil
}

// listening lists the addresses that anyone in the pod listens on.
func (v *Server) listening() ([]netip.AddrPort, error) {
	var all []netip.AddrPort
	for _, name := range []string{"net/tcp", "net/tcp6"} {
		text, err := content(v.procFile(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return all, err
		}
		some, err := parseListening(text)
		if err != nil {
			return all, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, some...)
	}
	return all, nil
}
