// Package host says what a cluster finds on the machine that it runs on: the
// programs it calls, and why none can run at all. The main type is [Machine],
// a plain value; its methods change nothing and may be called from anywhere.
package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Machine is where to look, and as whom.
type Machine struct {
	OS       string   // GOOS
	Arch     string   // GOARCH
	UID      int      // the effective user
	Self     string   // this executable
	Programs []string // directories of programs, in order of preference
	Plugins  []string // directories of CNI plugins
}

// This returns the machine that the process runs on.
func This() (Machine, error) {
	self, err := os.Executable()
	if err != nil {
		return Machine{}, fmt.Errorf("find this executable: %w", err)
	}
	return Machine{
		OS: runtime.GOOS, Arch: runtime.GOARCH, UID: os.Geteuid(), Self: self,
		Programs: programDirs(os.Getenv("PATH")),
		Plugins:  []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"},
	}, nil
}

// programDirs returns the usual directories and then those of path. A user's PATH
// often lacks the sbin directories, where half of what is needed lives.
func programDirs(path string) []string {
	dirs := []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
	for _, dir := range filepath.SplitList(path) {
		if filepath.IsAbs(dir) && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// Tools are what a cluster uses of a machine.
type Tools struct {
	Self       string // this executable
	Arch       string // GOARCH
	Containerd string
	NFT        string
	CNI        string // the directory of the CNI plugins
	Path       string // PATH for the components, which call others by name
}

// requirement is a program that the machine has to have.
type requirement struct {
	program string
	plugin  bool   // a CNI plugin
	debian  string // the package that has it
	note    func(*Tools, string)
}

var requirements = []requirement{
	{program: "containerd", debian: "containerd", note: func(t *Tools, p string) { t.Containerd = p }},
	{program: "containerd-shim-runc-v2", debian: "containerd"},
	{program: "runc", debian: "runc"},
	{program: "nft", debian: "nftables", note: func(t *Tools, p string) { t.NFT = p }},
	{program: "mount", debian: "mount"},
	{program: "bridge", plugin: true, debian: "containernetworking-plugins", note: func(t *Tools, p string) { t.CNI = filepath.Dir(p) }},
	{program: "host-local", plugin: true, debian: "containernetworking-plugins"},
	{program: "loopback", plugin: true, debian: "containernetworking-plugins"},
}

// Find finds the tools. The error names everything that is missing, and the
// packages that have it.
func (m Machine) Find() (Tools, error) {
	t := Tools{Self: m.Self, Arch: m.Arch, Path: strings.Join(m.Programs, string(filepath.ListSeparator))}
	var missing, packages []string
	for _, r := range requirements {
		dirs, what := m.Programs, r.program
		if r.plugin {
			dirs, what = m.Plugins, "the CNI plugin "+r.program
		}
		path := find(r.program, dirs)
		if path == "" {
			missing = append(missing, what+" (package "+r.debian+")")
			if !slices.Contains(packages, r.debian) {
				packages = append(packages, r.debian)
			}
			continue
		}
		if r.note != nil {
			r.note(&t, path)
		}
	}
	if len(missing) == 0 {
		return t, nil
	}
	return Tools{}, fmt.Errorf("this machine lacks what an embedded cluster needs: %s; programs were looked for in %s, plugins in %s\n  on Debian and Ubuntu: apt-get install %s",
		strings.Join(missing, ", "), strings.Join(m.Programs, " "), strings.Join(m.Plugins, " "), strings.Join(packages, " "))
}

// find returns the path of an executable in one of dirs, or "".
func find(name string, dirs []string) string {
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

const alternatives = "use a cluster that you have (bight --context NAME: kind, k3d, minikube, Docker Desktop, any other)"

// ErrNotPermitted is what Check's error is when the user may not run a cluster.
var ErrNotPermitted = errors.New("not permitted")

// Check says why no cluster can run here, whatever is installed.
func (m Machine) Check() error {
	if m.OS != "linux" {
		return fmt.Errorf("the embedded cluster runs on Linux only, this is %s: %s", m.OS, alternatives)
	}
	if m.UID != 0 {
		return fmt.Errorf("the embedded cluster is %w to users other than root, for containers need it: use sudo, or %s", ErrNotPermitted, alternatives)
	}
	return nil
}
