package lifecycle

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Tools are the programs of the machine that a cluster uses.
type Tools struct {
	Self       string
	Containerd string
	CNI        string // directory
}

// requirement is something that the machine has to have.
type requirement struct {
	what     string   // a program or a file
	where    []string // directories to look in beside PATH
	packages string   // the package that has it: Debian's name first, then others'
	set      func(*Tools, string)
}

var systemPaths = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

var requirements = []requirement{
	{"containerd", systemPaths, "containerd", func(t *Tools, p string) { t.Containerd = p }},
	{"containerd-shim-runc-v2", systemPaths, "containerd", nil},
	{"runc", systemPaths, "runc", nil},
	{"nft", systemPaths, "nftables", nil},
	{"bridge", []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}, "containernetworking-plugins", func(t *Tools, p string) { t.CNI = filepath.Dir(p) }},
	{"host-local", []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}, "containernetworking-plugins", nil},
	{"loopback", []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}, "containernetworking-plugins", nil},
}

// FindTools finds what a cluster needs of the machine. The error names everything
// that is missing, and the packages that have it.
func FindTools() (*Tools, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	t := &Tools{Self: self}
	var missing, packages []string
	seen := map[string]bool{}
	for _, r := range requirements {
		path := find(r.what, r.where)
		if path == "" {
			missing = append(missing, r.what+" (package "+r.packages+")")
			if !seen[r.packages] {
				seen[r.packages] = true
				packages = append(packages, r.packages)
			}
			continue
		}
		if r.set != nil {
			r.set(t, path)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("this machine lacks what an embedded cluster needs: %s\n  on Debian and Ubuntu: apt-get install %s",
			strings.Join(missing, ", "), strings.Join(packages, " "))
	}
	return t, nil
}

// find returns the path of an executable, or "".
func find(name string, dirs []string) string {
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	if strings.HasPrefix(dirs[0], "/usr/local") {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

const alternatives = "use a cluster that you have (bight --context NAME: kind, k3d, minikube, Docker Desktop, any other)"

// checkMachine says why no cluster can run here, whatever is installed.
func checkMachine() error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("the embedded cluster runs on Linux only, this is %s: %s", runtime.GOOS, alternatives)
	}
	if os.Geteuid() != 0 {
		return CodedError{3, fmt.Errorf("the embedded cluster has to be started as root, for containers need it: use sudo, or %s", alternatives)}
	}
	return nil
}

// CodedError is an error with an exit code of its own.
type CodedError struct {
	Code int
	Err  error
}

func (e CodedError) Error() string { return e.Err.Error() }
func (e CodedError) Unwrap() error { return e.Err }
