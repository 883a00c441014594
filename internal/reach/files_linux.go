package reach

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/bightdev/bight/internal/stream"
)

// serveFiles sends files of mounts, and changed ones when the laptop watches.
func (v *Server) serveFiles(ctx context.Context, st *stream.Stream, request string) error {
	var r filesRequest
	if err := json.Unmarshal([]byte(request), &r); err != nil {
		return fmt.Errorf("request for files: %w", err)
	}
	p, err := v.process(ctx)
	if err != nil {
		return err
	}
	all, err := v.mounts(p)
	if err != nil {
		return err
	}
	wanted, refused := choose(all, r.Mounts)
	ctx, cancel := context.WithCancel(ctx)
	var g sync.WaitGroup
	defer g.Wait()
	defer cancel()
	var changes *changes
	if r.Watch { // from before the first look, so that nothing is missed
		changes = v.watch(p, wanted)
		defer changes.close()
	}
	s := &snapshots{st: st, perMount: cmp.Or(v.FilesPerMount, 16<<20), inAll: cmp.Or(v.FilesInAll, 64<<20)}
	if err := s.send(p, wanted, refused); err != nil || !r.Watch {
		return errors.Join(err, st.CloseWrite())
	}
	defer st.Close() // before g.Wait: it ends the reader
	g.Go(func() {
		defer cancel()
		var b [1]byte
		_, _ = st.Read(b[:]) // the laptop says no more: this is the end
	})
	for {
		p, changed, err := changes.wait(ctx)
		if err != nil {
			return nil // the laptop watches no longer
		}
		if err := s.send(p, changed, nil); err != nil {
			return err
		}
	}
}

// choose returns the mounts to send, and empty sets that say why others are not.
func choose(all []Mount, names []string) (wanted []Mount, refused []FileSet) {
	for _, m := range all {
		if m.Copied && (len(names) == 0 || slices.Contains(names, m.Path)) {
			wanted = append(wanted, m)
		}
	}
	for _, name := range names {
		at := slices.IndexFunc(all, func(m Mount) bool { return m.Path == name })
		why := "it is no mount of the pod"
		if at >= 0 && all[at].Copied {
			continue
		}
		if at >= 0 {
			why = fmt.Sprintf("mounts of kind %q are not copied", all[at].Kind)
		}
		name = name[:min(len(name), maxFileName)]
		refused = append(refused, FileSet{Path: name, LeftOut: []LeftOut{{Path: name, Why: why}}})
	}
	return wanted, refused
}

// snapshots sends snapshots within limits.
type snapshots struct {
	st              *stream.Stream
	perMount, inAll int64
}

func (s *snapshots) send(p Process, mounts []Mount, more []FileSet) error {
	w := bufio.NewWriterSize(s.st, 32<<10)
	left := s.inAll
	for _, m := range mounts {
		set, size := readSet(p, m, min(s.perMount, left))
		left -= size
		writeSet(w, set)
	}
	for _, set := range more {
		writeSet(w, set)
	}
	writeFileFrame(w, fileDone)
	return w.Flush()
}

// readSet reads the files of a mount, all of one version: when kubelet exchanges
// them meanwhile, it begins anew.
func readSet(p Process, m Mount, limit int64) (FileSet, int64) {
	const attempts = 5
	for n := 1; ; n++ {
		before := versionOf(p, m.Path)
		r := &setReader{set: FileSet{Path: m.Path}, limit: limit}
		if err := r.read(p); err != nil {
			r.leaveOut(".", err)
		}
		if after := versionOf(p, m.Path); after == before || n == attempts {
			r.set.Entries = settle(r.set.Entries, before)
			return r.set, r.size
		}
	}
}

// settle makes of entries what they are when kubelet has done all that belongs to
// a change, which it announces in the middle: the old version is gone, and there
// are links to the names of the new version and to no others.
func settle(entries []File, version string) []File {
	if version == "" {
		return entries
	}
	linked, names := map[string]bool{}, map[string]bool{}
	for _, f := range entries {
		if dir, name := path.Split(f.Name); dir == version+"/" {
			names[name] = true
		}
	}
	var out []File
	for _, f := range entries {
		top, _, _ := strings.Cut(f.Name, "/")
		name, isLink := strings.CutPrefix(f.Target, dataLink+"/")
		switch {
		case strings.HasPrefix(top, "..") && top != version && f.Name != dataLink:
			continue
		case isLink && f.Name == name && !names[name]:
			continue
		case isLink:
			linked[f.Name] = true
		}
		out = append(out, f)
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if !linked[name] {
			out = append(out, File{Name: name, Mode: fs.ModeSymlink | 0o777, Target: dataLink + "/" + name})
		}
	}
	return out
}

// setReader reads a mount into a set.
type setReader struct {
	set         FileSet
	size, limit int64
}

// entryCost is counted for an entry beside its content, so that the number of
// them has a limit too.
const entryCost = 256

func (r *setReader) read(p Process) error {
	f, err := p.Open(r.set.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return r.add(".", st, func() (*os.File, error) { return f, nil }, nil)
	}
	root, err := os.OpenRoot(descriptor(f))
	if err != nil {
		return err
	}
	defer root.Close()
	return r.walk(root, ".")
}

// walk adds what is in a directory, in the order of the names.
func (r *setReader) walk(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	if err = errors.Join(err, d.Close()); err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		name = path.Join(dir, name)
		st, err := root.Lstat(name)
		if err == nil {
			err = r.add(name, st, func() (*os.File, error) {
				return root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
			}, func() (string, error) { return root.Readlink(name) })
		}
		if err == nil && st.IsDir() {
			err = r.walk(root, name)
		}
		if err != nil {
			r.leaveOut(name, err)
		}
	}
	return nil
}

// leaveOut names what is not sent. What has vanished is not missed.
func (r *setReader) leaveOut(name string, err error) {
	if errors.Is(err, fs.ErrNotExist) && name != "." {
		return
	}
	p := path.Join(r.set.Path, name)
	if p = p[:min(len(p), maxFileName)]; len(r.set.LeftOut) < 1000 {
		r.set.LeftOut = append(r.set.LeftOut, LeftOut{Path: p, Why: err.Error()})
	}
}

func (r *setReader) add(name string, info fs.FileInfo, open func() (*os.File, error), link func() (string, error)) (err error) {
	f := File{Name: name, Mode: info.Mode().Type() | info.Mode().Perm()}
	size := int64(entryCost + len(name))
	switch f.Mode.Type() {
	case fs.ModeDir:
	case fs.ModeSymlink:
		if f.Target, err = link(); err != nil {
			return err
		}
	case 0:
		if size += info.Size(); r.size+size > r.limit || info.Size() > maxFileSize {
			return fmt.Errorf("its %d bytes are more than the limit for copies leaves", info.Size())
		}
		if f.Content, err = readFile(open, min(r.limit-r.size, maxFileSize)); err != nil {
			return err
		}
		size = int64(entryCost + len(name) + len(f.Content))
	default:
		return fmt.Errorf("it is neither a file, a directory nor a link: %v", f.Mode.Type())
	}
	if r.size+size > r.limit || len(name) > maxFileName {
		return errors.New("the limit for copies is reached")
	}
	r.size += size
	r.set.Entries = append(r.set.Entries, f)
	return nil
}

func readFile(open func() (*os.File, error), limit int64) ([]byte, error) {
	f, err := open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readUpTo(f, limit)
}

// readUpTo reads a file that may grow meanwhile.
func readUpTo(f *os.File, limit int64) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("it is no file: %v", st.Mode().Type())
	}
	b := make([]byte, min(st.Size(), limit))
	n := 0
	for n < len(b) {
		k, err := f.Read(b[n:])
		if n += k; err != nil || k == 0 {
			break
		}
	}
	return b[:n], nil
}
