package live

import (
	"context"
	"fmt"
	"io"

	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/stream"
)

// Inspect asks the agent that cfg names once for its state, without changing
// anything. With verify the agent reads all of its files again, so that the
// digest is that of what is on its disk now.
func Inspect(ctx context.Context, cfg TargetConfig, verify bool) (wire.State, error) {
	ctx, hangUp := context.WithCancel(ctx)
	client := &stream.Client{
		Dial:  func(ctx context.Context) (io.ReadWriteCloser, error) { return cfg.Dial(ctx) },
		Token: cfg.Token, Version: cfg.Version, Log: cfg.Log,
	}
	sess, err := client.Connect(ctx)
	if err != nil {
		hangUp()
		return wire.State{}, fmt.Errorf("inspect %s: %w", cfg.Name, err)
	}
	defer sess.Close()
	defer hangUp() // nothing was written that would have to arrive: no long farewell
	conv, state, err := converse(ctx, sess, "")
	if err != nil {
		return wire.State{}, fmt.Errorf("inspect %s: %w", cfg.Name, err)
	}
	defer conv.close()
	if !verify {
		return state, nil
	}
	err = conv.once(ctx, wire.KindVerify, func(msg message) bool {
		t, ok := msg.(wholeTree)
		if ok {
			state.Change, state.Digest = t.change, t.tree.Digest()
		}
		return ok
	})
	if err != nil {
		return state, fmt.Errorf("verify the files of %s: %w", cfg.Name, err)
	}
	return state, nil
}
