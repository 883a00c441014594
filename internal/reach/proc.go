package reach

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// mountInfo is a line of /proc/self/mountinfo (proc(5)).
type mountInfo struct {
	root, point string // of the mount in its file system, and where it is
	options     []string
	fsType      string
}

// parseMountInfo reads mountinfo. Of mounts at one place only the last counts.
func parseMountInfo(text string) ([]mountInfo, error) {
	var all []mountInfo
	for line := range strings.Lines(text) {
		m, err := parseMountLine(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, err
		}
		all = slices.DeleteFunc(all, func(o mountInfo) bool { return o.point == m.point })
		all = append(all, m)
	}
	return all, nil
}

func parseMountLine(line string) (mountInfo, error) {
	before, after, ok := strings.Cut(line, " - ")
	f, g := strings.Split(before, " "), strings.Split(after, " ")
	if !ok || len(f) < 6 || f[4] == "" {
		return mountInfo{}, fmt.Errorf("line %.200q of mountinfo is not understood", line)
	}
	return mountInfo{
		root: unescapeMount(f[3]), point: unescapeMount(f[4]),
		options: strings.Split(f[5], ","), fsType: g[0],
	}, nil
}

// unescapeMount undoes what the kernel does to spaces, tabs, newlines and
// backslashes: a backslash and three octal digits.
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// kubeletVolumes are the kinds by the directory below a pod's volumes.
func kubeletVolumes(plugin string) MountKind {
	switch plugin {
	case "configmap":
		return ConfigMap
	case "secret":
		return Secret
	case "projected":
		return Projected
	case "downward-api":
		return DownwardAPI
	case "empty-dir":
		return EmptyDir
	}
	return Other
}

// ownVolume is how the names of the volumes begin that are the agent's.
const ownVolume = "bight-"

// mount says what m is to the process. ok is false for what every container has
// and for what is the agent's own, whose directories are own. written tells
// whether kubelet has written the files: only a look at them can tell if they
// are kept in memory.
func (m mountInfo) mount(own []string, written bool) (out Mount, ok bool) {
	out = Mount{Path: m.point, Kind: Other, ReadOnly: slices.Contains(m.options, "ro")}
	if m.standard() || slices.ContainsFunc(own, func(dir string) bool { return below(m.point, dir) }) {
		return out, false
	}
	if _, rest, found := strings.Cut(m.root, "/volumes/kubernetes.io~"); found {
		plugin, name, _ := strings.Cut(rest, "/")
		out.Kind = kubeletVolumes(plugin)
		out.Volume, _, _ = strings.Cut(name, "/")
	}
	if out.Kind == Other && out.Volume == "" && written && m.fsType == "tmpfs" {
		out.Kind = Kubelet
	}
	if strings.HasPrefix(out.Volume, ownVolume) {
		return out, false
	}
	switch out.Kind {
	case ConfigMap, Secret, Projected, DownwardAPI, Kubelet:
		out.Copied = true
	}
	return out, true
}

// inMemory reports whether m may be what kubelet wrote to memory.
func (m mountInfo) inMemory() bool { return m.fsType == "tmpfs" && !m.standard() }

// versioned reports whether m is a part of what kubelet wrote: the mount of a
// subPath comes from below one of the versions.
func (m mountInfo) versioned() bool { return strings.HasPrefix(m.root, "/..") }

// standard reports whether every container has m.
func (m mountInfo) standard() bool {
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if below(m.point, dir) {
			return true
		}
	}
	switch m.point {
	case "/", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/run/secrets", "/run/.containerenv":
		return true
	}
	// The termination log, which may be anywhere.
	_, rest, ok := strings.Cut(m.root, "/pods/")
	return ok && strings.Contains(rest, "/containers/")
}

// below reports whether p is dir or below it.
func below(p, dir string) bool {
	dir = path.Clean(dir)
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}
