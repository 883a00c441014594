package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/probe"
	"github.com/bightdev/bight/internal/reach"
	"github.com/bightdev/bight/internal/steer"
	"github.com/bightdev/bight/internal/stream"
	"github.com/bightdev/bight/internal/stream/direct"
)

const (
	// TokenEnv is the variable that has the session's token. The process does not
	// see it.
	TokenEnv = "BIGHT_TOKEN"
	// AppEnv is the variable that tells the process where its newest files are,
	// once there are newer ones than the image's. There may be nothing yet.
	AppEnv = "BIGHT_APP"
	// DefaultLive is where the volume for live files is mounted.
	DefaultLive = "/bight/live"
)

// Agent is one run of the agent. Its fields are set before Run.
type Agent struct {
	Name           string       // of the service
	Root           string       // of the image's files
	Live           string       // a directory to write to
	Token          string       // that sessions must have
	Version        string       // of this program
	Command        []string     // of the process
	RestartProcess bool         // when the files change and the session asks for it
	Probe          *probe.Probe // nil: the process is ready when it runs
	Doors          []Door       // in front of ports of the process
	Readiness      net.Listener // for kubelet's questions; nil: they go to the process
	Grace          time.Duration
	Stdout, Stderr io.Writer
	Log            *slog.Logger

	store      *store
	sup        *Supervisor
	hub        hub
	reach      *reach.Server
	host       *steer.Host
	direct     *direct.Door
	hosts      []string
	openErr    error
	background sync.WaitGroup
	ended      chan struct{}
}

// Run starts the process, serves sessions that come through ln, and returns the
// process's exit code when it is told to stop by a signal or ctx.
func (a *Agent) Run(ctx context.Context, ln net.Listener) (int, error) {
	if len(a.Command) == 0 {
		return 2, errors.New("no command to run: name it after --")
	}
	a.limitMemory()
	a.ended = make(chan struct{})
	a.hosts = ownHosts()
	a.store = &store{root: a.Root, live: a.Live, log: a.Log}
	if a.openErr = a.store.open(); a.openErr != nil {
		a.Log.Warn("live update is not possible", "err", a.openErr)
	}
	a.sup = a.supervisor()
	a.reach = &reach.Server{Hidden: []string{TokenEnv, AppEnv}, Own: []string{a.Live}, Log: a.Log}
	a.host = a.steering()
	sctx, cancel := context.WithCancel(ctx)
	var g sync.WaitGroup
	for i, door := range a.host.Doors {
		g.Go(func() {
			if err := door.Serve(sctx, a.Doors[i].Listener); err != nil && sctx.Err() == nil {
				a.Log.Error("a port can't be reached any more", "port", door.Port, "err", err)
			}
		})
	}
	server := &stream.Server{
		Token: a.Token, Version: a.Version, Handle: a.handle, Log: a.Log,
		Limits: stream.Limits{Replay: 4 << 20, Budget: 8 << 20, Streams: streamsFor(descriptors())},
	}
	a.direct = &direct.Door{Server: server, Log: a.Log}
	g.Go(func() {
		if err := server.Serve(sctx, ln); err != nil && sctx.Err() == nil {
			a.Log.Error("no session can connect any more", "err", err)
		}
	})
	if a.Readiness != nil {
		g.Go(func() {
			if err := a.serveReadiness(sctx, a.Readiness); err != nil {
				a.Log.Error("kubelet can't ask any more", "err", err)
			}
		})
	}
	code := a.sup.Run(ctx)
	close(a.ended)
	cancel()
	g.Wait()
	a.direct.Close()
	a.background.Wait()
	a.store.close()
	return code, nil
}

func (a *Agent) supervisor() *Supervisor {
	s := NewSupervisor(a.Command)
	s.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, TokenEnv+"=") || strings.HasPrefix(kv, AppEnv+"=")
	})
	s.Env = append(s.Env, AppEnv+"="+filepath.Join(a.Live, appName))
	s.Dir = a.store.current
	s.Probe = a.Probe
	if s.Probe != nil {
		s.Probe.Hosts = a.hosts
	}
	if a.Grace > 0 {
		s.Grace = a.Grace
	}
	if a.Stdout != nil {
		s.Stdout = a.Stdout
	}
	if a.Stderr != nil {
		s.Stderr = a.Stderr
	}
	s.Log = a.Log
	if len(a.Doors) > 0 {
		s.Drain, s.Leave = drain, a.retire
	}
	s.OnEvent = func(ev wire.Event) { a.hub.send(ev, nil) }
	return s
}

// drain is how long clients still find the way here after the pod was told to end:
// each node hears of it in its own time, and kube-proxy looks once a second.
const drain = 1500 * time.Millisecond

// retire makes clients take other connections, to other pods.
func (a *Agent) retire() {
	for _, d := range a.host.Doors {
		d.Retire()
	}
}

// limitMemory tells the runtime how much memory there should be at most: little,
// and some for each entry of the tree.
func (a *Agent) limitMemory() {
	const base, perEntry = 20 << 20, 1 << 10
	n := 0
	if a.store != nil {
		if sum, err := a.store.now(); err == nil {
			n = len(sum.tree)
		}
	}
	debug.SetMemoryLimit(int64(base + n*perEntry))
	debug.SetGCPercent(30)
}

// descriptors is how many this process may have open.
func descriptors() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return limit.Cur
}

// streamsFor is how many streams a session may have where the process may have so many
// descriptors. One that leads back to a port of the pod takes seven with its doors, and
// what the pod is asked for by others needs some, too.
func streamsFor(descriptors uint64) int {
	const least, most, each = 1024, 4096, 8
	return int(min(max(descriptors/each, least), most))
}

// ownHosts returns the addresses of this pod: loopback first, then those that a
// process may listen on instead.
func ownHosts() []string {
	hosts := []string{"127.0.0.1", "::1"}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return hosts
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			hosts = append(hosts, n.IP.String())
		}
	}
	return hosts
}
