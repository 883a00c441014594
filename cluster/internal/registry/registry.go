// Package registry is the cluster's OCI registry: the CNCF distribution handler
// over a directory. What was pushed outlives the process. The main function is
// [Handler]; the handler is safe for concurrent use.
package registry

import (
	"context"
	"io"
	"net/http"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the driver named below
	"github.com/sirupsen/logrus"
)

// Handler serves the OCI distribution API from dir, which it makes. It asks for
// no credentials: it is reached through loopback and from the cluster's own
// nodes only.
func Handler(ctx context.Context, dir string) http.Handler {
	logrus.SetOutput(io.Discard) // one line per request is of use to nobody here
	config := &configuration.Configuration{
		Storage: configuration.Storage{
			"filesystem": configuration.Parameters{"rootdirectory": dir, "maxthreads": 100},
			"delete":     configuration.Parameters{"enabled": true},
			"maintenance": configuration.Parameters{
				"uploadpurging": map[any]any{"enabled": false},
			},
		},
	}
	config.Catalog.MaxEntries = 1000
	config.Log.AccessLog.Disabled = true
	config.Log.Level = "error"
	// Kubernetes' images may have any digest; nothing is fetched to check them.
	config.Validation.Disabled = true
	return handlers.NewApp(ctx, config)
}
