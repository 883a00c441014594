package host

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEverythingThatIsMissingIsNamedAtOnce(t *testing.T) {
	empty := t.TempDir()
	_, err := Machine{OS: "linux", Programs: []string{empty}, Plugins: []string{empty}}.Find()
	if err == nil {
		t.Fatal("no error on a machine with nothing")
	}
	for _, r := range requirements {
		if !strings.Contains(err.Error(), r.program+" (package "+r.debian+")") {
			t.Errorf("the error does not name %s and its package %s: %v", r.program, r.debian, err)
		}
	}
	want := "apt-get install containerd runc nftables mount containernetworking-plugins"
	if !strings.HasSuffix(err.Error(), want) {
		t.Errorf("the error does not end in %q: %v", want, err)
	}
	if !strings.Contains(err.Error(), empty) {
		t.Errorf("the error does not say where was looked: %v", err)
	}
}

func TestOnlyWhatIsMissingIsNamed(t *testing.T) {
	programs, plugins := t.TempDir(), t.TempDir()
	for _, r := range requirements {
		if r.program == "runc" {
			continue
		}
		executable(t, filepath.Join(map[bool]string{true: plugins, false: programs}[r.plugin], r.program), 0o755)
	}
	// What is there but can't be run does not count.
	executable(t, filepath.Join(programs, "runc"), 0o644)
	m := Machine{OS: "linux", Programs: []string{programs}, Plugins: []string{plugins}}
	_, err := m.Find()
	if err == nil || !strings.HasSuffix(err.Error(), "apt-get install runc") {
		t.Fatalf("got %v, want an error that names runc alone", err)
	}
}

func TestToolsAreFoundInOrderOfPreference(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	for _, r := range requirements {
		executable(t, filepath.Join(second, r.program), 0o755)
	}
	executable(t, filepath.Join(first, "containerd"), 0o755)
	m := Machine{OS: "linux", Arch: "arm64", Self: "/bin/self", Programs: []string{first, second}, Plugins: []string{first, second}}
	got, err := m.Find()
	if err != nil {
		t.Fatal(err)
	}
	want := Tools{
		Self: "/bin/self", Arch: "arm64", Containerd: filepath.Join(first, "containerd"),
		NFT: filepath.Join(second, "nft"), CNI: second, Path: first + ":" + second,
	}
	if got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestWhyNoClusterCanRun(t *testing.T) {
	for _, c := range []struct {
		name      string
		machine   Machine
		want      []string
		permitted bool
	}{
		{"root on Linux", Machine{OS: "linux"}, nil, true},
		{"a user", Machine{OS: "linux", UID: 1000}, []string{"root", "sudo", "kind", "k3d", "minikube", "Docker Desktop"}, false},
		{"another system", Machine{OS: "darwin", UID: 501}, []string{"Linux only", "darwin", "kind"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.machine.Check()
			if (err == nil) != (c.want == nil) {
				t.Fatalf("got %v", err)
			}
			if got := errors.Is(err, ErrNotPermitted); got == c.permitted {
				t.Errorf("not permitted: got %v, want %v", got, !c.permitted)
			}
			for _, word := range c.want {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("the error lacks %q: %v", word, err)
				}
			}
		})
	}
}

func TestTheUsualDirectoriesAreSearchedWhateverPathSays(t *testing.T) {
	got := programDirs("/opt/x:relative::/usr/bin")
	want := []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/opt/x"}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

func executable(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), mode); err != nil {
		t.Fatal(err)
	}
}
