package outer

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"k8s.io/client-go/rest"

	"github.com/bightdev/bight/internal/change/controller"
	"github.com/bightdev/bight/internal/change/review/secrets"
	"github.com/bightdev/bight/internal/cli"
	"github.com/bightdev/bight/internal/install"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/release/control"
	"github.com/bightdev/bight/internal/release/guard"
	"github.com/bightdev/bight/internal/release/guard/prometheus"
	"github.com/bightdev/bight/internal/release/spec"
)

// Control implements [cli.Outer]. It is in a pod.
func (Loop) Control(ctx context.Context, s cli.ControllerSettings) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	pod, namespace := os.Getenv("POD_NAME"), os.Getenv("POD_NAMESPACE")
	config, err := rest.InClusterConfig()
	if err != nil || pod == "" || namespace == "" {
		return errors.New("bight controller runs in the pods of the StatefulSet that bight install makes, with POD_NAME, POD_NAMESPACE and a service account")
	}
	config.UserAgent = "bight-controller/" + s.Version
	config.QPS = -1 // one app's first deployment is a burst
	debug.SetMemoryLimit(512 << 20)
	s.Log.Info("controller starts", "version", s.Version, "pod", pod)
	cluster := kube.New(config, "", "")
	releases := &control.Controller{
		Cluster: cluster, Agents: "system:serviceaccount:" + namespace + ":" + install.NodeAgents, Log: s.Log,
		Dir: filepath.Join(s.Dir, "evidence"), Past: filepath.Join(s.Dir, "releases"), Unsaved: filepath.Join(s.Dir, "heard"), Secrets: new(secrets.Checker).Search,
	}
	if s.Prometheus != "" {
		if releases.Metrics, err = guards(s.Prometheus); err != nil {
			return err
		}
	}
	c := &controller.Controller{
		Cluster: cluster, Dir: s.Dir, Listen: s.Listen, Pod: pod, Namespace: namespace,
		HookCommand: s.Hook, Version: s.Version, Log: s.Log,
		Beside: releases.Run, Paths: map[string]http.Handler{
			"POST " + spec.EvidencePath: releases, "POST " + spec.PairsPath: http.HandlerFunc(releases.TakePairs),
		},
		Guarded: map[string]controller.Guarded{
			"GET " + spec.BundlePath + "/{namespace}/{name}": ofEvidence(releases.GiveBundle),
			"GET " + spec.RecordPath + "/{namespace}/{name}": ofEvidence(releases.GiveRecord),
		},
	}
	account(c, releases, s)
	return c.Run(ctx)
}

func ofEvidence(give http.HandlerFunc) controller.Guarded {
	return controller.Guarded{Resource: "releases", Subresource: "evidence", Handler: give}
}

// guards is who answers guards.
func guards(url string) (control.Metrics, error) {
	if err := guard.CheckURL(url); err != nil {
		return nil, err
	}
	return prometheus.New(url)
}
