package live

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/bightdev/bight/internal/live/delta"
	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/tree"
)

// localError says that a file can't be read as the tree says it is.
type localError struct {
	path string
	err  error
}

func (e *localError) Error() string { return fmt.Sprintf("read %s: %v", e.path, e.err) }
func (e *localError) Unwrap() error { return e.err }

var (
	errChanged = errors.New("it has changed since it was looked at")
	errAbort   = errors.New("given up for a newer state")
)

// sent is what there is to tell about a patch that was sent.
type sent struct {
	files, deleted int
	bytes          int64    // on the wire
	content        int64    // of the files
	large          []string // paths of files that may be a base next time
	diff           time.Duration
	send           time.Duration
}

// sending is one patch on its way out.
type sending struct {
	w        *wire.Writer
	bases    *Bases
	compress bool
	stop     func() bool // asked between frames
	sent     sent

	frame []byte // being filled
}

// run sends the patch that makes want out of from. When it returns an error of
// this machine (a *localError or errAbort) the patch was given up; any other
// error is one of the connection.
func (s *sending) run(job send) error {
	start := time.Now()
	p := makePlan(job.from, job.want.Tree, job.fromDigest, job.want.Digest, func(old tree.Hash) bool {
		return !job.plain && s.bases.has(old)
	})
	deltas := s.deltas(&p, job)
	defer func() {
		for _, d := range deltas {
			d.release()
		}
	}()
	s.sent.diff = time.Since(start)
	start = time.Now()
	head := wire.PatchHeader{
		Base: p.base, Target: p.target, Source: job.want.Source, Restart: job.want.Restart,
		Deletes: len(p.deletes), Puts: len(p.puts),
	}
	if s.compress {
		head.Encoding = wire.Zstd
	}
	if err := s.w.Send(wire.KindPatch, head.Encode()); err != nil {
		return err
	}
	err := s.content(p, job.want.Tree, deltas)
	var local *localError
	switch {
	case err == nil:
		err = s.w.Send(wire.KindEnd, nil)
	case errors.As(err, &local) || errors.Is(err, errAbort):
		if aerr := s.w.Send(wire.KindAbort, nil); aerr != nil {
			return aerr
		}
	}
	s.sent.send = time.Since(start)
	s.sent.files, s.sent.deleted = len(p.puts), len(p.deletes)
	return err
}

// deltas opens the versions of the files that the plan has deltas for. Where
// that can't be done, the plan is changed.
func (s *sending) deltas(p *plan, job send) map[string]*pair {
	deltas := map[string]*pair{}
	for i := range p.puts {
		put := &p.puts[i]
		if put.Entry.Mode.IsRegular() && put.How == wire.Delta {
			d := s.bases.open(job.from[put.Ref].Hash, job.want.Tree[put.Path].Local, put.Entry.Size)
			if d == nil {
				put.How, put.Ref = wire.Whole, ""
				continue
			}
			deltas[put.Path] = d
		}
	}
	return deltas
}

// content sends the patch's content.
func (s *sending) content(p plan, want tree.Tree, deltas map[string]*pair) (err error) {
	var out io.Writer = s
	if s.compress {
		z, err := zstd.NewWriter(s, zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithWindowSize(wire.ZstdWindow), zstd.WithEncoderConcurrency(1))
		if err != nil {
			return err
		}
		out = z
	}
	var b []byte
	for _, name := range p.deletes {
		b = wire.AppendDelete(b, name)
	}
	for _, put := range p.puts {
		b = wire.AppendPut(b, put)
	}
	if _, err := out.Write(b); err != nil {
		return err
	}
	for _, put := range p.puts {
		if !put.Entry.Mode.IsRegular() || put.How == wire.Same {
			continue
		}
		s.sent.content += put.Entry.Size
		if put.Entry.Size >= deltaSize {
			s.sent.large = append(s.sent.large, put.Path)
		}
		if put.How == wire.Delta {
			err = deltas[put.Path].encode(out)
			if errors.Is(err, delta.ErrCorrupt) {
				err = &localError{put.Path, errChanged}
			}
		} else {
			err = copyFile(out, put.Path, want[put.Path])
		}
		if err != nil {
			return err
		}
	}
	if z, ok := out.(*zstd.Encoder); ok {
		if err := z.Close(); err != nil {
			return err
		}
	}
	return s.flush()
}

// copyFile writes exactly as many bytes as e says; the agent checks that they
// are the right ones.
func copyFile(out io.Writer, path string, e tree.Entry) error {
	f, err := os.Open(e.Local)
	if err != nil {
		return &localError{path, err}
	}
	defer f.Close()
	r := &io.LimitedReader{R: f, N: e.Size}
	if s, ok := out.(*sending); ok {
		err = s.fill(r)
	} else {
		_, err = io.Copy(out, struct{ io.Reader }{r})
	}
	if _, ok := errors.AsType[*os.PathError](err); ok {
		return &localError{path, err}
	}
	if err == nil && r.N > 0 {
		return &localError{path, errChanged}
	}
	return err
}

// Write collects p into frames.
func (s *sending) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		room := s.room()
		k := copy(room, p)
		p = p[k:]
		if err := s.took(k); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// fill reads r into frames.
func (s *sending) fill(r io.Reader) error {
	for {
		n, err := r.Read(s.room())
		if terr := s.took(n); terr != nil {
			return terr
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *sending) room() []byte {
	if s.frame == nil {
		s.frame = make([]byte, 0, wire.DataSize)
	}
	return s.frame[len(s.frame):cap(s.frame)]
}

func (s *sending) took(n int) error {
	s.frame = s.frame[:len(s.frame)+n]
	if len(s.frame) < cap(s.frame) {
		return nil
	}
	return s.flush()
}

func (s *sending) flush() error {
	if s.stop() {
		return errAbort
	}
	if len(s.frame) == 0 {
		return nil
	}
	err := s.w.Send(wire.KindData, s.frame)
	s.sent.bytes += int64(len(s.frame))
	s.frame = s.frame[:0]
	return err
}
