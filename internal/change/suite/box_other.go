//go:build !linux

package suite

import (
	"io/fs"
	"os"
	"os/exec"
)

// box holds the processes of a job. Away from Linux that is the first process
// alone.
type box struct{ process *os.Process }

func newBox(Limits) (*box, error) { return &box{}, nil }

func (b *box) name() string { return "none" }

func (b *box) env() []string { return nil }

func (b *box) start(cmd *exec.Cmd) error {
	err := cmd.Start()
	b.process = cmd.Process
	return err
}

func (b *box) use() (int, int64) { return 1, 0 }

func (b *box) after() (Stop, string) { return "", "" }

func (b *box) quit() { b.kill() }

func (b *box) kill() { _ = b.process.Kill() } // it may be gone

func (b *box) close() {}

func allocated(info fs.FileInfo) int64 { return info.Size() }
