package stream

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"testing"
)

// writer is a function.
type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// sender sends some bytes on each stream.
func sender(sent []byte) func(context.Context, *Stream) {
	return func(_ context.Context, st *Stream) {
		for rest := sent; len(rest) > 0; {
			n := min(len(rest), 1+len(rest)%70000)
			if _, err := st.Write(rest[:n]); err != nil {
				return // the reader has had enough
			}
			rest = rest[n:]
		}
		_ = st.CloseWrite()
	}
}

func TestWriteToGivesWhatWasSent(t *testing.T) {
	sent := make([]byte, 5<<20)
	_, _ = rand.Read(sent)
	_, c := serve(t, &Server{Handle: sender(sent)})
	var got bytes.Buffer
	n, err := open(t, connect(t, c), "").WriteTo(writer(func(p []byte) (int, error) {
		before := bytes.Clone(p)
		n, err := got.Write(p)
		if !bytes.Equal(before, p) {
			t.Error("what was lent has changed")
		}
		return n, err
	}))
	if err != nil || n != int64(len(sent)) || !bytes.Equal(got.Bytes(), sent) {
		t.Errorf("%d bytes of %d, %v", n, len(sent), err)
	}
}

func TestWriteToEndsWithItsWriter(t *testing.T) {
	sent := make([]byte, 1<<20)
	_, _ = rand.Read(sent)
	_, c := serve(t, &Server{Handle: sender(sent)})
	st := open(t, connect(t, c), "")
	errFull := errors.New("full")
	var got []byte
	n, err := st.WriteTo(writer(func(p []byte) (int, error) {
		p = p[:min(len(p), 1000-len(got))]
		if got = append(got, p...); len(got) == 1000 {
			return len(p), errFull
		}
		return len(p), nil
	}))
	if !errors.Is(err, errFull) || n != 1000 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	rest, err := io.ReadAll(onlyReader{st}) // nothing is lost
	if err != nil || !bytes.Equal(append(got, rest...), sent) {
		t.Errorf("%d bytes after it, %v", len(rest), err)
	}
}

type onlyReader struct{ io.Reader }

// What is lent stays as it is when the stream ends meanwhile, whatever others do with
// the memory of streams.
func TestWriteToOfAStreamThatEnds(t *testing.T) {
	_, c := serve(t, &Server{Handle: func(ctx context.Context, st *Stream) {
		sender(bytes.Repeat(st.Header(), 200<<10))(ctx, st)
	}})
	s := connect(t, c)
	for _, end := range []func(*Stream){func(st *Stream) { _ = st.Close() }, func(st *Stream) { st.Reset(CodeAborted) }} {
		st := open(t, s, "x")
		_, err := st.WriteTo(writer(func(p []byte) (int, error) {
			end(st)
			if _, err := io.Copy(io.Discard, onlyReader{open(t, s, "y")}); err != nil {
				t.Error(err)
			}
			if bytes.Count(p, []byte{'x'}) != len(p) {
				t.Error("what was lent has changed")
			}
			return len(p), nil
		}))
		if err == nil {
			t.Error("the end of the stream was no error")
		}
	}
}
