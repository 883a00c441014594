package jail

import (
	"fmt"
	"net/netip"
	"path"
	"strings"
)

// resolvConf is the pod's resolv.conf with our name server in the place of its own.
func resolvConf(content string, server netip.Addr) string {
	var b strings.Builder
	fmt.Fprintf(&b, "nameserver %s\n", server)
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] == "nameserver" || strings.ContainsAny(fields[0][:1], "#;") {
			continue
		}
		b.WriteString(strings.Join(fields, " ") + "\n")
	}
	return b.String()
}

// nsswitchConf is the machine's nsswitch.conf with host names from files and DNS
// only: no daemon of the machine may answer in the cluster's place.
func nsswitchConf(content string) string {
	var b strings.Builder
	for line := range strings.Lines(content) {
		if name, _, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "hosts" {
			continue
		}
		b.WriteString(strings.TrimRight(line, "\r\n") + "\n")
	}
	b.WriteString("hosts: files dns\n")
	return b.String()
}

// hostsFile is what /etc/hosts says.
func hostsFile(content, hostname string, own netip.Addr) string {
	if content == "" {
		content = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
		if hostname != "" {
			content += fmt.Sprintf("%s %s\n", own, hostname)
		}
	}
	if !strings.HasSuffix(content, "\n") {
		content += "\n"
	}
	return content + fmt.Sprintf("%s %s\n", machine4, HostName)
}

// single says whether the mount is one file.
func (m *Mount) single() bool { return len(m.Files) == 1 && m.Files[0].Name == "" }

func (m *Mount) check() error {
	if !path.IsAbs(m.Path) || path.Clean(m.Path) == "/" {
		return fmt.Errorf("mount %q: the path must be absolute and not the root", m.Path)
	}
	if m.single() {
		return nil
	}
	for _, f := range m.Files {
		if f.Name == "" || path.IsAbs(f.Name) || path.Clean(f.Name) != f.Name || f.Name == "." || f.Name == ".." || strings.HasPrefix(f.Name, "../") {
			return fmt.Errorf("mount %s: file %q: the name must be a clean path below the mount", m.Path, f.Name)
		}
		if m.Projected && (f.Link != "" || strings.HasPrefix(f.Name, "..")) {
			return fmt.Errorf("mount %s: file %q: a projected volume has plain files whose names don't begin with two dots", m.Path, f.Name)
		}
	}
	return nil
}
