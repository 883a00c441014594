package reach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/bightdev/bight/internal/stream"
)

// Process is whose environment and files a Server tells of.
type Process interface {
	// Environ returns the environment that the process was started with.
	Environ() ([]string, error)
	// Dir returns the working directory.
	Dir() (string, error)
	// Proc returns the kernel's file of this name below /proc/PID.
	Proc(name string) ([]byte, error)
	// Open opens a file or directory for reading, as the process sees the path. It
	// must not follow links out of the process's root, nor wait for the writer of a
	// pipe.
	Open(path string) (*os.File, error)
}

// Network is where a Server's connections and questions leave from. The network of
// an address is "tcp" or "udp".
type Network interface {
	Dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)
}

// self is this process.
type self struct{ etc, proc string } // directories

func (self) Environ() ([]string, error) { return os.Environ(), nil }
func (self) Dir() (string, error)       { return os.Getwd() }

func (s self) Proc(name string) ([]byte, error) { return os.ReadFile(filepath.Join(s.proc, name)) }

func (s self) Open(path string) (*os.File, error) {
	if name, ok := strings.CutPrefix(path, "/etc/"); ok && s.etc != "" {
		path = filepath.Join(s.etc, name)
	}
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// process finds the process that is told of, as it is now.
func (v *Server) process(ctx context.Context) (Process, error) {
	if v.Process != nil {
		return v.Process(ctx)
	}
	s := self{etc: v.etc, proc: v.proc}
	if s.proc == "" {
		s.proc = "/proc/self"
	}
	return s, nil
}

// identity is what the kernel knows about who a process is.
type identity struct {
	uid, gid int
	groups   []int
}

// identify finds out who a process is, and its pod's host name.
func identify(p Process) (id identity, host string, err error) {
	if _, own := p.(self); own {
		id = identity{uid: os.Getuid(), gid: os.Getgid()}
		id.groups, err = os.Getgroups()
		host, hostErr := os.Hostname()
		return id, host, errors.Join(err, hostErr)
	}
	status, err := p.Proc("status")
	if err == nil {
		id, err = parseStatus(string(status))
	}
	if err != nil {
		id = identity{uid: -1, gid: -1}
	}
	host, hostErr := content(p, "/etc/hostname")
	return id, strings.TrimSpace(host), errors.Join(err, hostErr)
}

// parseStatus reads /proc/PID/status. Of the user and group it has the real, the
// effective and two more: the effective ones say what the process may do.
func parseStatus(text string) (identity, error) {
	var id identity
	found := 0
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if name != "Uid" && name != "Gid" && name != "Groups" {
			continue
		}
		numbers := make([]int, len(f))
		for i := range f {
			var err error
			if numbers[i], err = strconv.Atoi(f[i]); err != nil {
				return id, fmt.Errorf("line %.200q of the process's status is not understood", line)
			}
		}
		switch {
		case name == "Groups":
			id.groups = numbers
		case len(numbers) < 2:
			return id, fmt.Errorf("line %.200q of the process's status is not understood", line)
		case name == "Uid":
			id.uid = numbers[1]
			found++
		case name == "Gid":
			id.gid = numbers[1]
			found++
		}
	}
	if found != 2 {
		return id, errors.New("the process's status names no user and group")
	}
	return id, nil
}

// content reads a small file as the process sees it.
func content(p Process, path string) (string, error) {
	f, err := p.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := readUpTo(f, maxFileSize)
	return string(b), err
}

// directory is a directory as the process sees it, from which no link leads out.
func directory(p Process, path string) (*os.Root, error) {
	f, err := p.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return os.OpenRoot(descriptor(f))
}

// descriptor is a path to what f is, for this process.
func descriptor(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// versionOf returns where the dataLink of a mount points, "" if there is none.
func versionOf(p Process, mount string) string {
	root, err := directory(p, mount)
	if err != nil {
		return ""
	}
	defer root.Close()
	at, _ := root.Readlink(dataLink) // "" without versions
	return at
}

// Refuse tells a laptop that it may not have what the stream asks for. It returns
// false, and has done nothing, if the header is not of this package.
func (v *Server) Refuse(st *stream.Stream) bool {
	header := string(st.Header())
	switch {
	case strings.HasPrefix(header, headerTCP), strings.HasPrefix(header, headerUDP):
		sendStatus(st, syscall.EACCES)
		_ = st.CloseWrite()
	case strings.HasPrefix(header, headerFiles), header == headerDNS, header == headerPod:
		st.Reset(codeForbidden)
	default:
		return false
	}
	return true
}
