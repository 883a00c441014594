// Command gateway is what the tests on Gateway API need besides themselves: it puts
// implementations onto a cluster, and is one of them, made of doors.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"

	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/test/gateway/doors"
	"github.com/bightdev/bight/test/gateway/place"
)

const usage = `usage: gateway put definitions        the kinds of Gateway API
       gateway put traefik PROGRAM    these, Traefik, and its Gateway traefik/traefik
       gateway put doors              these, and a Gateway implementation made of doors
       gateway serve                  the latter, in its pod
On the cluster that $KUBECONFIG names; run it in test/gateway.`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	cluster, err := kube.Load(kube.Options{UserAgent: "bight-test-gateway"})
	switch {
	case len(args) == 1 && args[0] == "serve" && err == nil:
		return serve(ctx, cluster)
	case len(args) >= 2 && args[0] == "put" && err == nil:
		return put(ctx, cluster, args[1], args[2:])
	case err != nil:
		return err
	}
	return errors.New(usage)
}

// put puts something onto the cluster.
func put(ctx context.Context, cluster *kube.Cluster, what string, args []string) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	p := &place.Place{Cluster: cluster, Cache: filepath.Join(cache, "bight"), Say: func(text string) { fmt.Println(text) }}
	if err := p.Definitions(ctx); err != nil {
		return err
	}
	switch {
	case what == "definitions" && len(args) == 0:
		return nil
	case what == "traefik" && len(args) == 1:
		return p.Traefik(ctx, args[0])
	case what == "doors" && len(args) == 0:
		self, err := os.Executable()
		if err != nil {
			return err
		}
		return p.Doors(ctx, self)
	}
	return errors.New(usage)
}

// serve is the Gateway that is made of doors.
func serve(ctx context.Context, cluster *kube.Cluster) error {
	at, err := netip.ParseAddr(os.Getenv("POD_IP"))
	if err != nil {
		return fmt.Errorf("$POD_IP: %w: it is the pod's address", err)
	}
	typed, err := cluster.Typed()
	if err != nil {
		return err
	}
	gateway, err := versioned.NewForConfig(cluster.RESTConfig())
	if err != nil {
		return err
	}
	c := &doors.Controller{Kube: typed, Gateway: gateway, Address: at, Log: slog.New(slog.NewTextHandler(os.Stdout, nil))}
	return c.Run(ctx)
}
