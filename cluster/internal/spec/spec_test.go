package spec

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWhatWasSavedIsLoaded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	want := &Cluster{Name: "dev", Nodes: 3, Egress: true, APIHostPort: 6001, RegistryHostPort: 6002, Dir: dir}
	if err := want.Save(); err != nil {
		t.Fatal(err)
	}
	got, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "cluster.json"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: got %v, %v; want mode %o", path, info.Mode(), err, mode)
		}
	}
}

func TestADamagedDescriptionIsRefusedWithWhatToDo(t *testing.T) {
	for name, c := range map[string]struct{ content, want string }{
		"empty":             {"", "unexpected end"},
		"cut off":           {`{"name": "dev", "nod`, "unexpected end"},
		"two":               {`{"name":"dev"}{}`, "after top-level"},
		"another's":         {`{"name":"prod","nodes":1,"apiPort":1,"registryPort":2}`, `name: "prod"`},
		"no node":           {`{"name":"dev","nodes":0,"apiPort":1,"registryPort":2}`, "nodes: 0"},
		"too many nodes":    {`{"name":"dev","nodes":17,"apiPort":1,"registryPort":2}`, "nodes: 17"},
		"no port":           {`{"name":"dev","nodes":1,"apiPort":1}`, "registryPort: 0"},
		"impossible port":   {`{"name":"dev","nodes":1,"apiPort":70000,"registryPort":2}`, "apiPort: 70000"},
		"one port for both": {`{"name":"dev","nodes":1,"apiPort":5,"registryPort":5}`, "both 5"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dev")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "cluster.json")
			if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(dir)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range []string{file, c.want, "bight cluster delete --name dev"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q: %v", want, err)
				}
			}
		})
	}
}

func TestAClusterThatIsNotThere(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want %v", err, fs.ErrNotExist)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(`{"name":"dev","nodes":1,"apiPort":1,"registryPort":2}`))
	f.Add([]byte(`{"name":"dev","nodes":1e9}`))
	dir := filepath.Join(f.TempDir(), "dev")
	if err := os.Mkdir(dir, 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, "cluster.json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := Load(dir); err == nil && len(c.AllNodes()) != c.Nodes {
			t.Errorf("%d nodes described, %d made", c.Nodes, len(c.AllNodes()))
		}
	})
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"bight": true, "a": true, "a-1": true, strings.Repeat("a", 32): true,
		"": false, "A": false, "1a": false, "-a": false, "a-": false, "a.b": false, "a/b": false, "..": false,
		strings.Repeat("a", 33): false,
	} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("%q: got %v, want ok %v", name, err, ok)
		}
	}
}

func TestNodesHaveNamesAndAddressesOfTheirOwn(t *testing.T) {
	c := &Cluster{Name: "bight", Nodes: MaxNodes, Dir: "/state/bight"}
	seen := map[string]bool{}
	for _, n := range c.AllNodes() {
		for _, value := range []string{n.Name, n.Address, n.PodCIDR, n.PodGate, n.Dir} {
			if seen[value] {
				t.Errorf("%s is given to two nodes", value)
			}
			seen[value] = true
		}
	}
	first := c.Node(1)
	want := Node{Index: 1, Name: "bight", Address: "10.41.0.11", PodCIDR: "10.42.1.0/24", PodGate: "10.42.1.1/24", Dir: "/state/bight/nodes/1"}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Error(diff)
	}
}

func TestClustersOfOneNameHaveCgroupsOfTheirOwn(t *testing.T) {
	a := (&Cluster{Name: "dev", Dir: "/home/a/dev"}).CgroupRoot()
	b := (&Cluster{Name: "dev", Dir: "/home/b/dev"}).CgroupRoot()
	if a == b {
		t.Errorf("both are below %s", a)
	}
}

func TestClustersAreListedByName(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"two", "one", "Not-A-Name"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := List(root)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"one", "two"}, got); diff != "" {
		t.Error(diff)
	}
	if got, err := List(filepath.Join(root, "none")); err != nil || got != nil {
		t.Errorf("a root that is not there: got %v, %v", got, err)
	}
}

func TestRoot(t *testing.T) {
	for _, c := range []struct{ state, xdg, want string }{
		{"/s", "/x", "/s/clusters"},
		{"", "/x", "/x/bight/clusters"},
		{"", "", "/home/me/.local/state/bight/clusters"},
		{"", "relative", "/home/me/.local/state/bight/clusters"}, // the XDG specification: ignore it
		{"s", "", filepath.Join(workingDirectory(t), "s", "clusters")},
	} {
		t.Setenv("BIGHT_STATE_DIR", c.state)
		t.Setenv("XDG_STATE_HOME", c.xdg)
		t.Setenv("HOME", "/home/me")
		if got, err := Root(); err != nil || got != c.want {
			t.Errorf("%+v: got %s, %v", c, got, err)
		}
	}
}

func workingDirectory(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
