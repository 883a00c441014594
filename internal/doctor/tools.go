package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/bightdev/bight/internal/app"
)

func (d *Doctor) goTool(ctx context.Context) Check {
	c := Check{Name: "go", Status: OK}
	bad := Warn // static sites need no toolchain
	if len(d.modules()) > 0 {
		bad = Fail
	}
	program, err := exec.LookPath("go")
	if err != nil {
		c.Status, c.Detail, c.Next = bad, "there is no go on PATH", "install it from https://go.dev/dl"
		return c
	}
	out, err := run(ctx, d.Dir, program, "env", "GOVERSION", "GOTOOLCHAIN")
	if err != nil {
		c.Status, c.Detail, c.Next = bad, said(program, err), "mend or reinstall it from https://go.dev/dl"
		return c
	}
	c.Detail = strings.Join(strings.Fields(out), ", toolchain ") + ", " + program
	for _, module := range d.modules() {
		// The go command says itself whether it is too old for a module.
		if _, err := run(ctx, filepath.Join(d.Dir, filepath.FromSlash(module)), program, "list", "-m"); err != nil {
			c.Status, c.Detail = bad, said(program, err)
			c.Next = "mend go.mod, install the version that it asks for, or let go fetch it: go env -w GOTOOLCHAIN=auto"
			return c
		}
	}
	return c
}

// modules are the directories of the app's Go modules.
func (d *Doctor) modules() []string {
	if d.App == nil {
		return nil
	}
	var dirs []string
	for _, s := range d.App.Services {
		if s.Build.Kind == app.BuildGo && !slices.Contains(dirs, s.Build.Module) {
			dirs = append(dirs, s.Build.Module)
		}
	}
	return dirs
}

func run(ctx context.Context, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	return string(out), err
}

func (d *Doctor) git(ctx context.Context) Check {
	program, err := exec.LookPath("git")
	if err != nil {
		return Check{Name: "git", Status: Warn, Detail: "there is no git on PATH", Next: "install it; go build cannot fetch private modules without"}
	}
	out, err := run(ctx, d.Dir, program, "version")
	if err != nil {
		return Check{Name: "git", Status: Warn, Detail: said(program, err), Next: "mend or reinstall git"}
	}
	return Check{Name: "git", Status: OK, Detail: strings.TrimPrefix(strings.TrimSpace(out), "git version ") + ", " + program}
}

// said is what a program that failed wrote, in one line.
func said(program string, err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return strings.Join(strings.Fields(string(exit.Stderr)), " ")
	}
	return program + ": " + err.Error()
}

// requirement is a program that the embedded cluster calls, and the Debian
// package that has it.
type requirement struct{ program, debian string }

func requirements() []requirement {
	return []requirement{
		{"containerd", "containerd"},
		{"containerd-shim-runc-v2", "containerd"},
		{"runc", "runc"},
		{"nft", "nftables"},
		{"mount", "mount"},
		{"bridge", "containernetworking-plugins"},
		{"host-local", "containernetworking-plugins"},
		{"loopback", "containernetworking-plugins"},
	}
}

// embedded looks for what the embedded cluster needs. Whoever has another cluster
// needs none of it.
func (d *Doctor) embedded(context.Context) Check {
	c := Check{Name: "embedded cluster", Status: OK, Detail: "everything that bight cluster start needs is here"}
	if d.KubeErr != nil {
		c.Status, c.Detail, c.Next = Warn, firstLine(d.KubeErr), "it is needed only where there is no other cluster"
		return c
	}
	if runtime.GOOS == "linux" && os.Geteuid() != 0 {
		c.Status, c.Detail, c.Next = Warn, "it needs root, which you are not", "run bight cluster start with sudo, or use another cluster (--context)"
		return c
	}
	find := d.Find
	if find == nil {
		find = findProgram
	}
	var missing, packages []string
	for _, r := range requirements() {
		if find(r.program) != "" {
			continue
		}
		missing = append(missing, r.program)
		if !slices.Contains(packages, r.debian) {
			packages = append(packages, r.debian)
		}
	}
	if len(missing) > 0 {
		c.Status, c.Detail = Warn, "this machine lacks "+strings.Join(missing, ", ")
		c.Next = fmt.Sprintf("apt-get install %s; or use another cluster (--context)", strings.Join(packages, " "))
	}
	return c
}

// findProgram looks in PATH, in the directories of administrators, which a user's
// PATH often lacks, and in those of CNI plugins.
func findProgram(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"} {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}
