package jail

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// setupCapabilities are what the keeper needs over its own namespaces.
var setupCapabilities = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP, unix.CAP_NET_BIND_SERVICE}

// rootCapabilities are what root keeps over the namespace: what a container
// runtime gives, and debugging.
var rootCapabilities = []uintptr{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FSETID, unix.CAP_FOWNER, unix.CAP_MKNOD,
	unix.CAP_NET_RAW, unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_SETFCAP, unix.CAP_SETPCAP,
	unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_CHROOT, unix.CAP_KILL, unix.CAP_AUDIT_WRITE, unix.CAP_SYS_PTRACE,
}

// dropCapabilities makes the calling thread give up everything that was for the
// set-up, so that a program it starts can't have it either.
func dropCapabilities() error {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if slices.Contains(rootCapabilities, c) && os.Geteuid() == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	var keep [2]uint32
	if os.Geteuid() == 0 {
		for _, c := range rootCapabilities {
			keep[c/32] |= 1 << (c % 32)
		}
	}
	for i := range data {
		data[i].Effective &= keep[i]
		data[i].Permitted &= keep[i]
		data[i].Inheritable = 0
	}
	return unix.Capset(&header, &data[0])
}

// identity returns the mappings of users and groups: each one to itself. An
// ordinary user may map only itself, root all that there are.
func identity() (uids, gids []syscall.SysProcIDMap) {
	if os.Geteuid() == 0 {
		uids, gids = mapped("/proc/self/uid_map"), mapped("/proc/self/gid_map")
	}
	if len(uids) == 0 || len(gids) == 0 {
		uids = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
		gids = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
	}
	return uids, gids
}

func mapped(path string) []syscall.SysProcIDMap {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return parseIDMap(string(b))
}

// parseIDMap returns the identity of what a uid_map has inside.
func parseIDMap(text string) []syscall.SysProcIDMap {
	var maps []syscall.SysProcIDMap
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			return nil
		}
		first, err1 := strconv.Atoi(fields[0])
		size, err2 := strconv.Atoi(fields[2])
		if err1 != nil || err2 != nil {
			return nil
		}
		maps = append(maps, syscall.SysProcIDMap{ContainerID: first, HostID: first, Size: size})
	}
	return maps
}
