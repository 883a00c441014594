package node

import (
	"strings"
)

// containerOf returns the container that a process is in, if it is in one of the
// pod's: cgroup is the process's /proc/PID/cgroup, uid the pod's. The known
// layouts are those of containerd, CRI-O and Docker, below the systemd and the
// cgroupfs driver, in version 1 and 2, seen from the host or from a cgroup
// namespace ("/../../podUID/ID").
func containerOf(cgroup, uid string) (id string, ok bool) {
	for line := range strings.Lines(cgroup) {
		// hierarchy:controllers:path, where the path may have colons as well.
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		if id, ok := containerIn(parts[2], uid); ok {
			return id, true
		}
	}
	return "", false
}

// inContainer reports whether a process with this cgroup is in the container with
// this ID. From a cgroup namespace of the same pod, that is all that is seen:
// "/../ID".
func inContainer(cgroup, id string) bool {
	for line := range strings.Lines(cgroup) {
		_, path, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		for _, e := range strings.FieldsFunc(path, func(r rune) bool { return r == '/' || r == ':' }) {
			if found, ok := containerID(e); ok && found == id {
				return true
			}
		}
	}
	return false
}

// containerIn does containerOf's work for one path.
func containerIn(path, uid string) (id string, ok bool) {
	// containerd with the cgroupfs driver below a kubelet with the systemd
	// driver writes "SLICE:cri-containerd:ID" as one element.
	elements := strings.FieldsFunc(path, func(r rune) bool { return r == '/' || r == ':' })
	for i, e := range elements {
		if pod := podOf(e); pod == "" || pod != canonical(uid) {
			continue
		}
		for _, below := range elements[i+1:] {
			if id, ok := containerID(below); ok {
				return id, true
			}
			// "cri-containerd" alone is half of the element above. Anything else
			// is not a container: crio-conmon-ID.scope is CRI-O's monitor.
			if below != "cri-containerd" {
				break
			}
		}
	}
	return "", false
}

// podOf returns the pod that a path's element stands for, "" if for none:
// "podUID", or "kubepods-burstable-podUID.slice" with other dashes.
func podOf(element string) string {
	name, isSlice := strings.CutSuffix(element, ".slice")
	if isSlice {
		_, after, ok := strings.Cut(name, "kubepods-")
		if !ok {
			return ""
		}
		after = strings.TrimPrefix(strings.TrimPrefix(after, "burstable-"), "besteffort-")
		name = after
	}
	uid, ok := strings.CutPrefix(name, "pod")
	if !ok || uid == "" {
		return ""
	}
	return canonical(uid)
}

// canonical undoes what the systemd driver does to a UID's dashes.
func canonical(uid string) string { return strings.ReplaceAll(uid, "_", "-") }

// containerID returns the container that a path's element stands for: "ID", or
// "RUNTIME-ID.scope".
func containerID(element string) (string, bool) {
	name, isScope := strings.CutSuffix(element, ".scope")
	if isScope {
		runtime, id, ok := cutLast(name, "-")
		if !ok || strings.HasSuffix(runtime, "conmon") {
			return "", false
		}
		name = id
	}
	if len(name) < 32 || strings.Trim(name, "0123456789abcdef") != "" {
		return "", false
	}
	return name, true
}

// cutLast cuts s at the last sep.
func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
