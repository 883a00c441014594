package jail

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestRemedies(t *testing.T) {
	for _, tc := range []struct {
		name string
		step string
		err  error
		f    facts
		want string
	}{
		{"switched off", stepNamespaces, unix.ENOSPC, facts{maxUserNamespaces: "0"}, "user.max_user_namespaces=15000"},
		{"used up", stepNamespaces, unix.ENOSPC, facts{maxUserNamespaces: "100"}, "end some"},
		{"Debian's switch", stepNamespaces, unix.EPERM, facts{unprivilegedClone: "0"}, "kernel.unprivileged_userns_clone=1"},
		{"Debian's switch, root", stepNamespaces, unix.EPERM, facts{unprivilegedClone: "0", root: true}, "hardened kernel"},
		{"AppArmor, at creation", stepNamespaces, unix.EACCES, facts{apparmorRestricted: "1"}, "apparmor_restrict_unprivileged_userns=0"},
		{"AppArmor, later", stepRoutes, unix.EPERM, facts{apparmorRestricted: "1"}, "AppArmor"},
		{"a container", stepNamespaces, unix.EPERM, facts{seccomp: true, root: true}, "seccomp=unconfined"},
		{"no netfilter", stepFilter, unix.ENOENT, facts{}, "modprobe"},
		{"no namespaces", stepNamespaces, unix.EINVAL, facts{}, "without user namespaces"},
		{"something else", stepListen, unix.EADDRINUSE, facts{}, ""},
	} {
		got := remedy(tc.step, tc.err, tc.f)
		if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestNoFullDiskIsSpokenOfWhereALimitIsMeant(t *testing.T) {
	start := func(errno unix.Errno) error {
		return &fs.PathError{Op: "fork/exec", Path: "/proc/self/exe", Err: errno}
	}
	for _, tc := range []struct {
		err   error
		want  string
		errno unix.Errno
	}{
		{start(unix.ENOSPC), "create a user namespace: no more of them may be made", unix.ENOSPC},
		{start(unix.EPERM), "create a user namespace: operation not permitted", unix.EPERM},
		{unix.EINVAL, "create a user namespace: invalid argument", unix.EINVAL},
	} {
		got := setupError(stepNamespaces, tc.err)
		if !strings.Contains(got.Error(), tc.want) || strings.Contains(got.Error(), "/proc/self") || !errors.Is(got, tc.errno) {
			t.Errorf("%v: got %v, want %q in it", tc.err, got, tc.want)
		}
	}
}

func TestIDMaps(t *testing.T) {
	got := parseIDMap("         0          0 4294967295\n")
	if diff := cmp.Diff([]syscall.SysProcIDMap{{Size: 4294967295}}, got); diff != "" {
		t.Error(diff)
	}
	got = parseIDMap("0 1000 1\n1 100000 65536\n")
	if diff := cmp.Diff([]syscall.SysProcIDMap{{Size: 1}, {ContainerID: 1, HostID: 1, Size: 65536}}, got); diff != "" {
		t.Error(diff)
	}
	if got := parseIDMap("nonsense"); got != nil {
		t.Error(got)
	}
}

func FuzzStat(f *testing.F) {
	f.Add([]byte("12 (a) b) (c) S 3 4 5 6 7"))
	f.Fuzz(func(t *testing.T, b []byte) { parseStat(1, b) })
}

func TestStat(t *testing.T) {
	got, ok := parseStat(12, []byte("12 (a) b) (c) S 3 4 5 6 7"))
	if want := (process{12, 3, 4, 5}); !ok || got != want {
		t.Errorf("%+v %v, want %+v", got, ok, want)
	}
}

func TestAVolumeBecomesWhatIsWanted(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	v := &volume{root: root}
	for _, m := range []Mount{
		{Files: []File{{Name: "a", Mode: 0o644, Content: []byte("1")}, {Name: "d/e/f", Mode: 0o600, Content: []byte("2")}}},
		{Files: []File{{Name: "a/b", Mode: 0o644, Content: []byte("1")}, {Name: "d", Mode: 0o400, Content: []byte("now a file")}}},
		{Files: []File{{Name: "a", Link: "d"}, {Name: "d/x", Mode: 0o755}}},
		{Files: []File{{Name: "..data", Link: "..1"}, {Name: "..1/k", Mode: 0o644, Content: []byte("k")}, {Name: "k", Link: "..data/k"}}},
		{Files: []File{{Name: "..data", Link: "..2"}, {Name: "..2/k", Mode: 0o644, Content: []byte("l")}, {Name: "k", Link: "..data/k"}}},
		{},
	} {
		if err := v.replace(&m); err != nil {
			t.Fatal(err)
		}
		got := []File{}
		err := filepath.WalkDir(root.Name(), func(p string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			name, _ := filepath.Rel(root.Name(), p)
			f := File{Name: name}
			if d.Type() == os.ModeSymlink {
				f.Link, err = os.Readlink(p)
			} else {
				st, _ := d.Info()
				f.Mode = st.Mode()
				if f.Content, err = os.ReadFile(p); len(f.Content) == 0 {
					f.Content = nil
				}
			}
			got = append(got, f)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		want := append([]File{}, m.Files...)
		less := func(a, b File) bool { return a.Name < b.Name }
		if diff := cmp.Diff(sorted(want, less), sorted(got, less)); diff != "" {
			t.Error(diff)
		}
	}
}

// What a program has open, or watches, is not touched by an update that changes nothing.
func TestAVolumeThatIsWhatIsWantedIsLeftAlone(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	v := &volume{root: root}
	m := Mount{Files: []File{ // as kubelet has it
		{Name: "..1", Mode: os.ModeDir | 0o755}, {Name: "..1/empty", Mode: os.ModeDir | 0o755}, {Name: "..1/k", Mode: 0o644, Content: []byte("k")},
		{Name: "..data", Link: "..1", Mode: os.ModeSymlink | 0o777}, {Name: "k", Link: "..data/k", Mode: os.ModeSymlink | 0o777},
	}}
	if err := v.replace(&m); err != nil {
		t.Fatal(err)
	}
	before := map[string]os.FileInfo{}
	for _, f := range m.Files {
		st, err := root.Lstat(f.Name)
		if err != nil {
			t.Fatal(err)
		}
		if before[f.Name] = st; st.Mode().Type() != f.Mode.Type() {
			t.Errorf("%s is %v, want %v", f.Name, st.Mode(), f.Mode)
		}
		open, err := root.Open(f.Name) // so that nothing new has its number
		if err != nil {
			t.Fatal(err)
		}
		defer open.Close()
	}
	if err := v.replace(&m); err != nil {
		t.Fatal(err)
	}
	for _, f := range m.Files {
		if st, err := root.Lstat(f.Name); err != nil || !os.SameFile(before[f.Name], st) {
			t.Errorf("%s was made anew, %v", f.Name, err)
		}
	}
}

func sorted(files []File, less func(a, b File) bool) []File {
	for i := range files {
		for k := i; k > 0 && less(files[k], files[k-1]); k-- {
			files[k], files[k-1] = files[k-1], files[k]
		}
	}
	return files
}
