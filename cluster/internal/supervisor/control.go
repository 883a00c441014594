package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// serveControl answers GET /status?after=VERSION and POST /stop on the cluster's
// control socket, which only its owner can reach, until ctx ends.
func (s *Supervisor) serveControl(ctx context.Context, stop context.CancelFunc) error {
	socket := s.Cluster.ControlSocket()
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("open the control socket: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		listener.Close()
		return err
	}
	s.serve(ctx, &http.Server{Handler: s.controlHandler(stop), ReadHeaderTimeout: 10 * time.Second}, listener)
	return nil
}

// A status that does not change is answered after this time.
const longestPoll = 2 * time.Second

func (s *Supervisor) controlHandler(stop context.CancelFunc) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		after, err := strconv.Atoi(r.URL.Query().Get("after"))
		if err != nil {
			http.Error(w, "after: give a version", http.StatusBadRequest)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), longestPoll)
		defer cancel()
		status := s.status.after(ctx, after)
		status.Components = s.processes.snapshot()
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(status); err == nil && status.Error != "" {
			s.status.read()
		}
	})
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		_ = http.NewResponseController(w).Flush() // stopping closes the connection
		stop()
	})
	return mux
}
