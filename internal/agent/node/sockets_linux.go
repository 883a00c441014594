package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/bightdev/bight/internal/procnet"
)

// Established returns the TCP connections of the namespace that are established.
func (n *Netns) Established(ctx context.Context) ([]procnet.Socket, error) {
	var all []procnet.Socket
	err := n.In(ctx, func() error {
		for _, name := range []string{"tcp", "tcp6"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // no IPv6
			}
			if err != nil {
				return err
			}
			some, err := procnet.Established(string(text))
			if err != nil {
				return err
			}
			all = append(all, some...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("connections of the network namespace: %w", err)
	}
	return all, nil
}
