package jail

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bightdev/bight/internal/bridge/splice"
)

// Jail is a running command and the sockets of its network. Start makes one; it
// ends with its context or its command, whichever is first.
type Jail struct {
	cfg    Config
	log    *slog.Logger
	mode   Mode
	own    []netip.Addr
	routes routes
	names  *names

	keeper *exec.Cmd
	ctl    *control
	term   *terminal
	ns     string           // the network namespace, as /proc names it
	taken  []netip.AddrPort // of Config.Machine: the command can't listen there

	ctx    context.Context // of all flows
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	done   chan struct{} // closed when all is over
	heard  chan struct{} // closed when the keeper says no more
	code   int
	err    error

	mu      sync.Mutex
	nextID  uint64
	waiting map[uint64]chan reply
	gone    bool // the keeper is
	exit    *int // the command's code

	listenMu  sync.Mutex
	listening map[string]func() // ModeListeners: what closes each

	flowsMu sync.Mutex
	flows   map[flowKey]*flow
}

type reply struct {
	message *message
	file    *os.File
}

// errGone is why a request to the keeper fails after the command's end.
var errGone = errors.New("the command has ended")

// defaultGrace is Config.Grace's.
const defaultGrace = 5 * time.Second

// Start starts the command. When ctx ends, so does the command and whatever it
// has started.
func Start(ctx context.Context, cfg Config) (*Jail, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	modes := []Mode{cfg.Mode}
	if cfg.Mode == "" {
		modes = []Mode{ModeTransparent, ModeListeners}
	}
	var first error
	for _, mode := range modes {
		j, err := start(ctx, cfg, mode)
		if err == nil {
			return j, nil
		}
		first = cmp.Or(first, err)
		var setup *SetupError
		if !errors.As(err, &setup) || ctx.Err() != nil {
			return nil, err
		}
		if cfg.Log != nil {
			cfg.Log.Info("network mode not available", "mode", mode, "err", err)
		}
	}
	return nil, first
}

func start(ctx context.Context, cfg Config, mode Mode) (*Jail, error) {
	j := newJail(ctx, cfg, mode)
	if err := j.open(j.setup(false)); err != nil {
		j.abandon()
		return nil, err
	}
	if err := j.serve(); err != nil {
		j.abandon()
		return nil, err
	}
	if err := j.launch(); err != nil {
		j.abandon()
		return nil, err
	}
	j.tasks.Go(func() { j.attend(ctx) })
	go j.conclude()
	return j, nil
}

func newJail(ctx context.Context, cfg Config, mode Mode) *Jail {
	j := &Jail{
		cfg: cfg, log: cfg.Log, mode: mode, term: &terminal{}, done: make(chan struct{}),
		heard: make(chan struct{}), waiting: map[uint64]chan reply{}, listening: map[string]func(){}, flows: map[flowKey]*flow{},
	}
	if j.log == nil {
		j.log = slog.New(slog.DiscardHandler)
	}
	own4, own6 := ownAddresses(cfg.Addresses)
	j.own = []netip.Addr{own4, own6}
	j.routes = routes{own: j.own, machine: cfg.Machine, ranges: cfg.Ranges, local: cfg.Local}
	j.names = newNames(cfg.Resolve, j.log)
	// The flows end after the command does, not before: it may have something to
	// say to the cluster at its end.
	j.ctx, j.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return j
}

// setup is what the keeper is told.
func (j *Jail) setup(trial bool) *setup {
	s := &setup{
		Command: j.cfg.Command, Dir: j.cfg.Dir, Env: j.cfg.Env, Hostname: j.cfg.Hostname, Mounts: j.cfg.Mounts,
		Own: []string{j.own[0].String(), j.own[1].String()}, Netfilter: j.mode == ModeTransparent,
		Services: j.cfg.Services, Trial: trial,
	}
	outside := len(j.cfg.Ranges) > 0 || j.cfg.Local != nil
	s.IPv6 = j.cfg.IPv6 || outside && machineHasIPv6()
	for _, p := range j.cfg.Ranges {
		if p.Addr().Is6() {
			s.Ranges6 = append(s.Ranges6, p.String())
		}
	}
	hostname := j.cfg.Hostname
	if hostname == "" {
		hostname, _ = os.Hostname()
	}
	nsswitch, _ := os.ReadFile("/etc/nsswitch.conf")
	s.Etc = map[string]string{
		"resolv.conf":   resolvConf(j.cfg.Resolv, nameserver),
		"hosts":         hostsFile(j.cfg.Hosts, hostname, j.own[0]),
		"nsswitch.conf": nsswitchConf(string(nsswitch)),
	}
	if j.cfg.Hostname != "" {
		s.Etc["hostname"] = j.cfg.Hostname + "\n"
	}
	return s
}

// machineHasIPv6 says whether this machine has a route for IPv6. Nothing is sent.
func machineHasIPv6() bool {
	c, err := net.DialUDP("udp6", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort("[2000::1]:9")))
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// open starts the keeper and has it prepare the namespaces.
func (j *Jail) open(s *setup) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	_ = ours.Close()
	if err != nil {
		return fmt.Errorf("make a socket pair: %w", err)
	}
	j.ctl = newControl(conn.(*net.UnixConn))
	j.term = openTerminal(&j.cfg)
	s.Group = j.term.alone

	uids, gids := identity()
	cmd := exec.Command("/proc/self/exe", keeperArg)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = j.cfg.Stdin, j.cfg.Stdout, j.cfg.Stderr
	cmd.WaitDelay = time.Second // for a Stdin that nobody closes
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		UidMappings: uids, GidMappings: gids,
		GidMappingsEnableSetgroups: len(gids) > 0 && (gids[0].Size > 1 || len(gids) > 1),
		AmbientCaps:                setupCapabilities,
		Setpgid:                    j.term.alone,
	}
	if s.Hostname != "" {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUTS
	}
	if err := cmd.Start(); err != nil {
		return setupError(stepNamespaces, err)
	}
	j.keeper = cmd
	j.ns, _ = os.Readlink(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
	j.tasks.Go(j.listen)
	_, _, err = j.ask(&message{Kind: kindSetup, Setup: s})
	var p *stepError
	switch {
	case errors.As(err, &p):
		return setupError(p.step, p.err)
	case err != nil:
		return setupError(stepNamespaces, err)
	}
	return nil
}

// listen receives what the keeper says until it is gone.
func (j *Jail) listen() {
	defer close(j.heard)
	for {
		m, file, err := j.ctl.receive()
		if err != nil {
			break
		}
		if m.ID != 0 {
			j.mu.Lock()
			to := j.waiting[m.ID]
			delete(j.waiting, m.ID)
			j.mu.Unlock()
			if to != nil {
				to <- reply{m, file}
				continue
			}
		}
		if file != nil {
			_ = file.Close()
		}
		switch m.Kind {
		case kindStopped:
			j.term.stopped()
		case kindExited:
			j.mu.Lock()
			j.exit = &m.Code
			j.mu.Unlock()
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.gone = true
	for id, to := range j.waiting {
		close(to)
		delete(j.waiting, id)
	}
}

// stepError is the keeper's problem.
type stepError struct {
	step string
	err  error
	code int
}

func (e *stepError) Error() string {
	if e.step == "" {
		return e.err.Error()
	}
	return e.step + ": " + e.err.Error()
}
func (e *stepError) Unwrap() error { return e.err }

// ask sends a request to the keeper and waits for the answer, which always comes
// soon, or not at all when the keeper ends.
func (j *Jail) ask(m *message) (*message, *os.File, error) {
	to := make(chan reply, 1)
	j.mu.Lock()
	if j.gone {
		j.mu.Unlock()
		return nil, nil, errGone
	}
	j.nextID++
	m.ID = j.nextID
	j.waiting[m.ID] = to
	j.mu.Unlock()
	if err := j.ctl.send(m, -1); err != nil {
		// The receiving side finds out by itself; it closes to.
		j.log.Debug("keeper not reached", "err", err)
	}
	r, ok := <-to
	if !ok {
		return nil, nil, errGone
	}
	if p := r.message.Err; p != nil {
		return r.message, nil, &stepError{step: p.Step, err: p.err(), code: r.message.Code}
	}
	return r.message, r.file, nil
}

// launch has the keeper start the command.
func (j *Jail) launch() error {
	if err := j.term.give(j.keeper.Process.Pid); err != nil {
		return fmt.Errorf("give the terminal to the command: %w", err)
	}
	_, _, err := j.ask(&message{Kind: kindStart})
	var p *stepError
	if errors.As(err, &p) && p.step == "" {
		return &StartError{Command: j.cfg.Command[0], Code: p.code, Err: p.err}
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", j.cfg.Command[0], err)
	}
	return nil
}

// attend ends the command when ctx does: first by asking it.
func (j *Jail) attend(ctx context.Context) {
	select {
	case <-j.ctx.Done():
		return
	case <-ctx.Done():
	}
	_ = j.Signal(unix.SIGTERM)
	_ = j.Signal(unix.SIGCONT)
	grace := time.NewTimer(cmp.Or(j.cfg.Grace, defaultGrace))
	defer grace.Stop()
	select {
	case <-j.ctx.Done():
	case <-grace.C:
		_ = j.ctl.send(&message{Kind: kindEnd}, -1)
	}
}

// conclude waits for the end of the command, the keeper and all tasks.
func (j *Jail) conclude() {
	err := j.keeper.Wait()
	select {
	case <-j.heard: // its last words, which are the exit code
	case <-time.After(time.Second): // something else has its end of the socket
	}
	j.term.take()
	killed := !j.keeper.ProcessState.Success()
	if killed {
		killNamespace(j.ns)
	}
	j.shut()
	j.mu.Lock()
	defer j.mu.Unlock()
	var exited *exec.ExitError
	switch {
	case j.exit != nil:
		j.code = *j.exit
	case killed:
		j.code = codeSignal + int(unix.SIGKILL)
	default:
		j.code = codeSignal + int(unix.SIGKILL)
		if err != nil && !errors.As(err, &exited) {
			j.err = fmt.Errorf("wait for the command: %w", err)
		}
	}
	close(j.done)
}

// shut ends all flows and waits for them.
func (j *Jail) shut() {
	j.cancel()
	if j.ctl != nil {
		_ = j.ctl.conn.Close()
	}
	j.tasks.Wait()
	j.term.close()
}

// abandon takes back a start that did not succeed.
func (j *Jail) abandon() {
	j.term.take()
	if j.keeper != nil {
		_ = j.ctl.conn.Close()
		_ = j.keeper.Wait()
	}
	j.shut()
}

// Wait waits for the end of everything and returns the command's exit code, or
// 128 and the signal that ended it.
func (j *Jail) Wait() (int, error) {
	<-j.done
	return j.code, j.err
}

// Done is closed when everything has ended.
func (j *Jail) Done() <-chan struct{} { return j.done }

// Mode returns how the command's network is made.
func (j *Jail) Mode() Mode { return j.mode }

// Signal sends a signal to the command.
func (j *Jail) Signal(sig syscall.Signal) error {
	_, _, err := j.ask(&message{Kind: kindSignal, Signal: int(sig)})
	return err
}

// Update replaces the files of a mount, which must have been one from the start.
func (j *Jail) Update(m Mount) error {
	if err := m.check(); err != nil {
		return err
	}
	for i := range j.cfg.Mounts {
		if j.cfg.Mounts[i].Path == m.Path && j.cfg.Mounts[i].single() {
			return nil // as in a pod, where a subPath keeps what it was
		}
	}
	_, _, err := j.ask(&message{Kind: kindMount, Mount: &m})
	return err
}

// SetServices replaces what is known to exist.
func (j *Jail) SetServices(s Services) error {
	if j.mode == ModeListeners {
		return j.listenTo(s)
	}
	_, _, err := j.ask(&message{Kind: kindServices, Services: &s})
	return err
}

// socket returns a socket that was made inside. This process may do with it what
// the namespace's owner may.
func (j *Jail) socket(family, typ int) (*os.File, error) {
	_, file, err := j.ask(&message{Kind: kindSocket, Family: family, Type: typ})
	if err != nil {
		return nil, err
	}
	if file == nil {
		return nil, errors.New("no socket came from the keeper")
	}
	return file, nil
}

// DialInside connects to a port on which the command listens: on a loopback
// address, or on any.
func (j *Jail) DialInside(ctx context.Context, network string, port uint16) (net.Conn, error) {
	typ := unix.SOCK_STREAM
	switch network {
	case "tcp":
	case "udp":
		typ = unix.SOCK_DGRAM
	default:
		return nil, net.UnknownNetworkError(network)
	}
	if network == "tcp" && j.another(port) {
		return nil, fmt.Errorf("connect to the command's port %d: %w", port, unix.ECONNREFUSED)
	}
	var first error
	for _, a := range append([]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, j.own...) {
		conn, err := j.connectInside(ctx, typ, netip.AddrPortFrom(a, port))
		if err == nil {
			return conn, nil
		}
		first = cmp.Or(first, err)
		if ctx.Err() != nil || errors.Is(err, errGone) {
			break
		}
	}
	return nil, fmt.Errorf("connect to the command's port %d: %w", port, first)
}

func (j *Jail) connectInside(ctx context.Context, typ int, to netip.AddrPort) (net.Conn, error) {
	file, err := j.socket(familyOf(to.Addr()), typ)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var result error
	err = raw.Control(func(fd uintptr) { result = unix.Connect(int(fd), sockaddr(to)) })
	if err != nil {
		return nil, err
	}
	if errors.Is(result, unix.EINPROGRESS) {
		stop := context.AfterFunc(ctx, func() { _ = file.SetDeadline(time.Unix(1, 0)) })
		defer stop()
		err = raw.Write(func(fd uintptr) (done bool) {
			done, result = connected(int(fd))
			return done
		})
		err = cmp.Or(ctx.Err(), err)
	}
	if err = cmp.Or(err, result); err != nil {
		return nil, err
	}
	return net.FileConn(file)
}

// connected says whether a connect has come to its end, and how.
func connected(fd int) (bool, error) {
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, os.NewSyscallError("getsockopt", err)
	}
	if errno != 0 {
		return true, os.NewSyscallError("connect", unix.Errno(errno))
	}
	_, err = unix.Getpeername(fd)
	return err == nil, nil
}

// task starts a goroutine that the end waits for.
func (j *Jail) task(f func()) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.gone {
		return errGone
	}
	j.tasks.Go(f)
	return nil
}

// Publish makes a port of the command reachable at 127.0.0.1 of this machine, at
// the given port or, if it is 0, at any. It ends with the command.
func (j *Jail) Publish(port, at uint16) (netip.AddrPort, error) {
	ln, err := net.Listen("tcp", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at).String())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("publish port %d: %w", port, err)
	}
	err = j.task(func() {
		j.accept(ln, func(conn net.Conn) {
			inside, err := j.DialInside(j.ctx, "tcp", port)
			if err != nil {
				j.log.Debug("published port not reached", "port", port, "err", err)
				splice.Abort(conn)
				return
			}
			splice.Conns(j.ctx, conn, inside)
		})
	})
	if err != nil {
		_ = ln.Close()
		return netip.AddrPort{}, fmt.Errorf("publish port %d: %w", port, err)
	}
	return ln.Addr().(*net.TCPAddr).AddrPort(), nil
}
