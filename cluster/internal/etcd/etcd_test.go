package etcd

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestWhatWasWrittenOutlivesTheProcess(t *testing.T) {
	dir, err := os.MkdirTemp("", "etcd-") // t.TempDir's names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	for _, step := range []func(context.Context, *clientv3.Client) error{
		func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Put(ctx, "key", "value")
			return err
		},
		func(ctx context.Context, c *clientv3.Client) error {
			got, err := c.Get(ctx, "key")
			if err == nil && (len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "value") {
				t.Errorf("got %v", got.Kvs)
			}
			return err
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		ended := make(chan error, 1)
		go func() { ended <- Run(ctx, filepath.Join(dir, "data"), socket) }()
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + socket}, DialTimeout: 20 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if err := step(ctx, client); err != nil {
			t.Error(err)
		}
		client.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestADirectoryThatIsNoneIsNamed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "data")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), file, filepath.Join(dir, "s")); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v", err)
	}
}
