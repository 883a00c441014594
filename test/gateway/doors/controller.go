package doors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"

	"github.com/bightdev/bight/internal/kube/follow"
)

// Name is the controller's, in a GatewayClass.
const Name = "bight.dev/test-doors"

// settle is how long changes are gathered before they are looked at.
const settle = 50 * time.Millisecond

// Controller serves the Gateways whose class is of [Name].
type Controller struct {
	Kube    kubernetes.Interface
	Gateway versioned.Interface
	Address netip.Addr // where the listeners' ports are reached
	Log     *slog.Logger

	pods   Pods
	fronts map[int32]*open // by port
}

// open is a listener that is served.
type open struct {
	of    string // the Gateway and its listener
	front *Front
	ln    net.Listener
	stop  context.CancelFunc
	done  sync.WaitGroup
}

// Run obeys what the cluster says until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	c.fronts = map[int32]*open{}
	c.pods.Log = c.Log
	c.pods.Open(ctx)
	look := make(chan struct{}, 1)
	failed := make(chan error, 1)
	var watches sync.WaitGroup
	defer func() {
		cancel()
		watches.Wait()
		for port := range c.fronts {
			c.close(port)
		}
		c.pods.Wait()
	}()
	for what, s := range c.sources() {
		watches.Go(func() {
			err := s.Changes(ctx, "", func(follow.Change) error {
				select {
				case look <- struct{}{}:
				default: // somebody looks soon
				}
				return nil
			})
			if err != nil && ctx.Err() == nil {
				select {
				case failed <- fmt.Errorf("watch %s: %w", what, err):
				default:
				}
			}
		})
	}
	for {
		select {
		case <-look:
			if err := c.settled(ctx); err == nil {
				err = c.round(ctx)
				if err != nil && ctx.Err() == nil { // what it is about will change
					c.Log.Warn("obey what the cluster says", "err", err)
				}
			}
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// settled waits for changes that come together.
func (c *Controller) settled(ctx context.Context) error {
	t := time.NewTimer(settle)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sources are what is looked at.
func (c *Controller) sources() map[string]follow.Source {
	all := metav1.ListOptions{}
	g := c.Gateway.GatewayV1()
	return map[string]follow.Source{
		"gatewayclasses": follow.Of(g.GatewayClasses(), all), "gateways": follow.Of(g.Gateways(""), all),
		"httproutes": follow.Of(g.HTTPRoutes(""), all), "grpcroutes": follow.Of(g.GRPCRoutes(""), all),
		"services": follow.Of(c.Kube.CoreV1().Services(""), all), "endpointslices": follow.Of(c.Kube.DiscoveryV1().EndpointSlices(""), all),
	}
}

// world reads the cluster.
func (c *Controller) world(ctx context.Context) (*World, error) {
	w, all, g := &World{}, metav1.ListOptions{}, c.Gateway.GatewayV1()
	classes, err1 := g.GatewayClasses().List(ctx, all)
	gateways, err2 := g.Gateways("").List(ctx, all)
	routes, err3 := g.HTTPRoutes("").List(ctx, all)
	calls, err4 := g.GRPCRoutes("").List(ctx, all)
	var services *corev1.ServiceList
	var slices *discoveryv1.EndpointSliceList
	services, err5 := c.Kube.CoreV1().Services("").List(ctx, all)
	slices, err6 := c.Kube.DiscoveryV1().EndpointSlices("").List(ctx, all)
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return nil, fmt.Errorf("read the cluster: %w", err)
	}
	w.Classes, w.Gateways, w.HTTPRoutes, w.GRPCRoutes = classes.Items, gateways.Items, routes.Items, calls.Items
	w.Services, w.Endpoints = services.Items, slices.Items
	return w, nil
}

// round brings doors and status to what the cluster says. The status comes last, so
// what it says is true already.
func (c *Controller) round(ctx context.Context) error {
	w, err := c.world(ctx)
	if err != nil {
		return err
	}
	said := w.Assign()
	wanted := map[int32]bool{}
	var errs []error
	for i := range said.Listeners {
		l := &said.Listeners[i]
		wanted[l.Port] = true
		if err := c.obey(ctx, l); err != nil {
			errs = append(errs, err)
			said.fail(l, err)
		}
	}
	for port := range c.fronts {
		if !wanted[port] {
			c.close(port)
		}
	}
	return errors.Join(append(errs, c.tell(ctx, w, said))...)
}

// obey opens a listener if need be, and has its doors do what its rules say.
func (c *Controller) obey(ctx context.Context, l *Listener) error {
	o := c.fronts[l.Port]
	if o != nil && o.of != l.Of {
		c.close(l.Port)
		o = nil
	}
	if o == nil {
		ln, err := net.Listen("tcp", ":"+strconv.Itoa(int(l.Port)))
		if err != nil {
			return fmt.Errorf("listen for %s: %w", l.Of, err)
		}
		o = &open{of: l.Of, ln: ln, front: &Front{Pods: &c.pods, Log: c.Log}}
		var inner context.Context
		inner, o.stop = context.WithCancel(ctx)
		o.front.Open(inner)
		o.done.Go(func() {
			if err := o.front.Serve(ln); err != nil {
				c.Log.Warn("serve a listener", "of", l.Of, "err", err)
			}
		})
		c.fronts[l.Port] = o
	}
	if err := o.front.Obey(Compile(l.Rules)); err != nil {
		return fmt.Errorf("obey the routes of %s: %w", l.Of, err)
	}
	return nil
}

func (c *Controller) close(port int32) {
	o := c.fronts[port]
	delete(c.fronts, port)
	o.stop()
	o.done.Wait()
	o.front.Wait()
}

// tell writes the status of everything that was looked at, as far as it has changed.
func (c *Controller) tell(ctx context.Context, w *World, said *Said) error {
	var errs []error
	g, update := c.Gateway.GatewayV1(), metav1.UpdateOptions{}
	for i := range w.Classes {
		if o := &w.Classes[i]; o.Spec.ControllerName == Name && setClass(o) {
			_, err := g.GatewayClasses().UpdateStatus(ctx, o, update)
			errs = append(errs, err)
		}
	}
	for i := range w.Gateways {
		if o := &w.Gateways[i]; w.ours(o) && said.setGateway(o, c.Address) {
			_, err := g.Gateways(o.Namespace).UpdateStatus(ctx, o, update)
			errs = append(errs, err)
		}
	}
	for i := range w.HTTPRoutes {
		o := &w.HTTPRoutes[i]
		if said.setRoute(&o.Status.RouteStatus, o.Generation, routeOf("http", &o.ObjectMeta)) {
			_, err := g.HTTPRoutes(o.Namespace).UpdateStatus(ctx, o, update)
			errs = append(errs, err)
		}
	}
	for i := range w.GRPCRoutes {
		o := &w.GRPCRoutes[i]
		if said.setRoute(&o.Status.RouteStatus, o.Generation, routeOf("grpc", &o.ObjectMeta)) {
			_, err := g.GRPCRoutes(o.Namespace).UpdateStatus(ctx, o, update)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// ours says whether a Gateway is of a class of this controller.
func (w *World) ours(g *gatewayv1.Gateway) bool {
	for _, class := range w.Classes {
		if class.Name == string(g.Spec.GatewayClassName) {
			return class.Spec.ControllerName == Name
		}
	}
	return false
}
