package controller

import (
	"context"

	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/bightdev/bight/api/v1alpha1"
)

func sourceKind[T client.Object](c cache.Cache, object T, h handler.TypedEventHandler[T, reconcile.Request]) source.Source {
	return source.Kind(c, object, h)
}

// wakeSource has the apps that come out of a channel looked at.
func wakeSource(wake <-chan v1alpha1.App) source.Source {
	return source.Func(func(ctx context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		go func() { // ends with ctx, as the queue does
			for {
				select {
				case <-ctx.Done():
					return
				case a := <-wake:
					q.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&a)})
				}
			}
		}()
		return nil
	})
}
