package jail

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// probe makes a jail without a command in each mode.
func probe(ctx context.Context) []Rung {
	var ladder []Rung
	for _, mode := range []Mode{ModeTransparent, ModeListeners} {
		r := Rung{Mode: mode, OK: true}
		if err := try(ctx, mode); err != nil {
			r.OK, r.Why = false, err.Error()
			var setup *SetupError
			if errors.As(err, &setup) {
				r.Why, r.Remedy = setup.Step+": "+setup.Err.Error(), setup.Remedy
			}
		}
		ladder = append(ladder, r)
	}
	return ladder
}

func try(ctx context.Context, mode Mode) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	j := newJail(ctx, Config{}, mode)
	defer j.abandon()
	if err := j.open(j.setup(true)); err != nil {
		return err
	}
	return j.serve()
}

// facts are what the machine says about user namespaces.
type facts struct {
	maxUserNamespaces  string // /proc/sys/user/max_user_namespaces
	unprivilegedClone  string // Debian's switch
	apparmorRestricted string // Ubuntu's switch
	seccomp            bool   // this process is under a seccomp filter
	root               bool
}

func gather() facts {
	read := func(path string) string {
		b, _ := os.ReadFile(path)
		return strings.TrimSpace(string(b))
	}
	return facts{
		maxUserNamespaces:  read("/proc/sys/user/max_user_namespaces"),
		unprivilegedClone:  read("/proc/sys/kernel/unprivileged_userns_clone"),
		apparmorRestricted: read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
		seccomp:            strings.Contains(read("/proc/self/status"), "Seccomp:\t2"),
		root:               os.Geteuid() == 0,
	}
}

func setupError(step string, err error) error {
	return &SetupError{Step: step, Err: plainly(step, err), Remedy: remedy(step, err, gather())}
}

// plainly leaves out of an error how this program starts its keeper, and what the system
// says of a full disk where a limit of namespaces is meant.
func plainly(step string, err error) error {
	var start *fs.PathError
	if !errors.As(err, &start) {
		return err
	}
	if step == stepNamespaces && errors.Is(err, unix.ENOSPC) {
		return &remoteError{text: "no more of them may be made", errno: unix.ENOSPC}
	}
	return start.Err
}

// remedy says what would make a step work.
func remedy(step string, err error, f facts) string {
	denied := errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)
	switch {
	case f.maxUserNamespaces == "0" && step == stepNamespaces:
		return "user namespaces are switched off: an administrator can allow them with `sysctl -w user.max_user_namespaces=15000`"
	case f.unprivilegedClone == "0" && !f.root && step == stepNamespaces:
		return "user namespaces are for root only here: an administrator can allow them with `sysctl -w kernel.unprivileged_userns_clone=1`"
	case f.apparmorRestricted == "1" && !f.root && (denied || errors.Is(err, errGone)):
		return "AppArmor takes the rights from user namespaces here: install the bight package, which has a profile that allows them to bight, or let an administrator run `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
	case errors.Is(err, unix.ENOSPC) && step == stepNamespaces:
		return "there are as many user namespaces as user.max_user_namespaces allows: end some, or raise it"
	case errors.Is(err, unix.EINVAL) && step == stepNamespaces:
		return "the kernel was built without user namespaces, or this process runs in a chroot"
	case f.seccomp && denied:
		return "this process runs in a container whose seccomp filter forbids namespaces: start the container with `--security-opt seccomp=unconfined`"
	case step == stepFilter && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL)):
		return "the kernel has no nftables TPROXY or it is not loaded: an administrator can load it with `modprobe -a nf_tables nft_tproxy nft_reject_inet`"
	case step == stepNamespaces && denied:
		return "this machine does not let ordinary users make user namespaces: its administrator can say what forbids it (SELinux, a container runtime or a hardened kernel)"
	}
	return ""
}
