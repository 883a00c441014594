package session

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// started is when a process of this machine was started.
func started(pid int) (string, error) {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return "", err
	}
	return fmt.Sprint(info.Proc.P_starttime.Sec, info.Proc.P_starttime.Usec), nil
}
