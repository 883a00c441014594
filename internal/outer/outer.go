// Package outer is the part of the command line that is only in bight-outer: workers,
// with all that reviews, and the controller. Linking it makes a program four times as
// large, and its start take five times as long, so that bight does without.
//
// The main type is [Loop]. It has no state.
package outer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/client-go/discovery"

	"github.com/bightdev/bight/internal/change/client"
	"github.com/bightdev/bight/internal/change/repo"
	"github.com/bightdev/bight/internal/change/review/manifest"
	"github.com/bightdev/bight/internal/change/work"
	"github.com/bightdev/bight/internal/change/worker"
	"github.com/bightdev/bight/internal/cli"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/session"
)

// Loop is the [cli.Outer] of bight-outer.
type Loop struct{}

// Worker implements [cli.Outer].
func (Loop) Worker(s cli.WorkerSettings) (*work.Client, func() error, error) {
	maker, err := session.NewMaker(s.Cache, worker.By, s.Log)
	if err != nil {
		return nil, nil, err
	}
	api, err := schemas(s.Cluster)
	if err != nil {
		return nil, nil, err
	}
	own, release, err := worker.Claim(filepath.Join(s.Cache, "worker"))
	if err != nil {
		return nil, nil, err
	}
	checkers, gates := worker.Checkers(api, worker.Database(s.VulnDB, os.Getenv("GOVULNDB")))
	remotes := &remotes{client: s.Controller}
	w := &worker.Worker{
		Name: s.Hello.Name, Source: remotes.source,
		Dir: own, Cache: s.Results,
		Maker: maker, Registry: s.Registry, Agent: s.Agent, Log: s.Log, Results: s.Controller.Results,
		Checkers: checkers, Gates: gates, Signer: s.Signer,
	}
	return &work.Client{Hello: s.Hello, Dial: s.Controller.Work, Do: w.Do, Log: s.Log},
		func() error { return errors.Join(remotes.close(), release()) }, nil
}

// schemas is what the cluster says of its API. It is asked when a change alters an
// object, and not for long.
func schemas(cluster *kube.Cluster) (manifest.Schemas, error) {
	config := cluster.RESTConfig()
	config.Timeout = 15 * time.Second
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	return manifest.Cluster{Client: client.OpenAPIV3()}, nil
}

// remotes keeps a way to the repository of each app that a worker works for.
type remotes struct {
	client *client.Client

	mu  sync.Mutex
	all map[string]*client.Remote
}

func (r *remotes) source(ctx context.Context, namespace, app string) (repo.Source, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := namespace + "/" + app
	if r.all[key] == nil {
		remote, err := r.client.Remote(ctx, namespace, app)
		if err != nil {
			return repo.Source{}, err
		}
		if r.all == nil {
			r.all = map[string]*client.Remote{}
		}
		r.all[key] = remote
	}
	return repo.Source{URL: r.all[key].URL, Username: "bight", Password: r.all[key].Token}, nil
}

func (r *remotes) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, remote := range r.all {
		errs = append(errs, remote.Close())
	}
	r.all = nil
	return errors.Join(errs...)
}
