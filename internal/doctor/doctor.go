// Package doctor looks at this machine and at the cluster and says what would
// keep Bight from working, and what to do about it.
//
// The main type is [Doctor]. It changes nothing, but for a file in the cache
// directory that it removes at once. [Doctor.Run] looks at everything at the same
// time and returns when all of it was seen.
package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/diskspace"
	"github.com/bightdev/bight/internal/kube"
)

// Status is how a check went.
type Status string

// Values of [Status].
const (
	OK   Status = "ok"
	Warn Status = "warn" // something that is not needed always
	Fail Status = "fail" // bight up will not work
)

// Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail"`         // what was found
	Next   string `json:"next,omitempty"` // what to do about it
}

// Doctor is what is known before looking.
type Doctor struct {
	Dir    string   // the source
	App    *app.App // what it plans; nil with AppErr
	AppErr error

	Cluster    *kube.Cluster // nil with ClusterErr
	ClusterErr error
	Namespace  string // of the environment; "" where no app is known
	Registry   string // as it was named, or ""

	Agent    string // path of the agent's program
	AgentErr error
	Kube     string // path of the embedded cluster's program
	KubeErr  error
	CacheDir string

	// Find returns the path of a program, "" if the machine lacks it; nil looks in
	// PATH and where Debian has it.
	Find func(program string) string
}

// limit is how long one check may take.
const limit = 10 * time.Second

// Run looks at everything. The checks come in a fixed order.
func (d *Doctor) Run(ctx context.Context) []Check {
	looks := []func(context.Context) Check{
		d.source, d.goTool, d.git, d.agent, d.cache, d.watches,
		d.cluster, d.rights, d.registry, d.embedded,
	}
	checks := make([]Check, len(looks))
	var g errgroup.Group
	for i, look := range looks {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			checks[i] = look(ctx)
			return nil
		})
	}
	_ = g.Wait() // a check that goes wrong says so itself
	return checks
}

// Failed names the checks that failed.
func Failed(checks []Check) []string {
	var names []string
	for _, c := range checks {
		if c.Status == Fail {
			names = append(names, c.Name)
		}
	}
	return names
}

func (d *Doctor) source(context.Context) Check {
	c := Check{Name: "source", Status: OK}
	switch {
	case d.AppErr != nil:
		c.Status, c.Detail, c.Next = Warn, firstLine(d.AppErr), "bight plan says more"
	case len(d.App.Questions) > 0:
		c.Status, c.Next = Fail, "answer them in bight.yaml; bight plan prints what to write"
		c.Detail = fmt.Sprintf("%d open questions", len(d.App.Questions))
	default:
		c.Detail = fmt.Sprintf("app %s, %d services", d.App.Name, len(d.App.Services))
	}
	return c
}

func (d *Doctor) agent(context.Context) Check {
	c := Check{Name: "agent", Status: OK, Detail: d.Agent}
	if d.AgentErr != nil {
		return Check{Name: "agent", Status: Fail, Detail: firstLine(d.AgentErr), Next: "install Bight whole: the agent is the program that runs in the pods"}
	}
	info, err := os.Stat(d.Agent)
	if err != nil || info.Size() == 0 {
		c.Status, c.Detail, c.Next = Fail, d.Agent+" cannot be read", "install Bight anew"
		return c
	}
	c.Detail = fmt.Sprintf("%s, %.1f MB", d.Agent, float64(info.Size())/1e6)
	return c
}

// smallCache is the free space below which builds are likely to fail.
const smallCache = 1 << 30

func (d *Doctor) cache(context.Context) Check {
	c := Check{Name: "cache", Status: OK, Detail: d.CacheDir}
	err := os.MkdirAll(d.CacheDir, 0o755)
	if err == nil {
		var f *os.File
		if f, err = os.CreateTemp(d.CacheDir, "doctor-"); err == nil {
			_, err = f.Write(make([]byte, 4096))
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}
	if err != nil {
		c.Status, c.Detail = Fail, "it cannot be written: "+err.Error()
		c.Next = "make room or change its owner, or set XDG_CACHE_HOME to another directory"
		return c
	}
	free, ok := diskspace.Free(d.CacheDir)
	if !ok {
		return c
	}
	c.Detail = fmt.Sprintf("%s, %.1f GB free", d.CacheDir, float64(free)/1e9)
	if free < smallCache {
		c.Status, c.Next = Warn, "make room: builds and images are kept there; all of it may be deleted at any time"
	}
	return c
}

// watches compares the directories of the source with what may be watched.
func (d *Doctor) watches(ctx context.Context) Check {
	c := Check{Name: "watches", Status: OK, Detail: "this system has no limit on watched directories"}
	max, ok := watchLimit()
	if !ok {
		return c
	}
	dirs := 0
	err := filepath.WalkDir(d.Dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil || !e.IsDir():
			return nil // what cannot be read is not watched
		case e.Name() == ".git", e.Name() == "node_modules":
			return fs.SkipDir
		}
		dirs++
		return nil
	})
	if err != nil {
		return Check{Name: c.Name, Status: Warn, Detail: "counting the directories of " + d.Dir + " took too long", Next: "is it a directory of source?"}
	}
	c.Detail = fmt.Sprintf("%d directories here, this machine allows %d (fs.inotify.max_user_watches)", dirs, max)
	// Other programs of the same user, such as editors, take their share.
	switch raise := "raise it: sysctl fs.inotify.max_user_watches=1048576"; {
	case dirs > max:
		c.Status, c.Next = Fail, raise
	case dirs > max/2:
		c.Status, c.Next = Warn, raise
	}
	return c
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
