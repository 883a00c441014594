package forward

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
)

func next(t *testing.T, tape *tape) io.ReadCloser {
	t.Helper()
	r, err := tape.next()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestABodyCanBeReadAgainFromTheStart(t *testing.T) {
	tape := newTape(iotest.OneByteReader(strings.NewReader("hello, world")), 100)
	first := next(t, tape)
	if _, err := io.ReadFull(first, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	second := next(t, tape)
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("read of the first: %v", err)
	}
	for r := second; ; r = next(t, tape) {
		if got, err := io.ReadAll(r); string(got) != "hello, world" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		if r != second {
			break
		}
	}
}

func TestABodyThatIsTooLargeIsReadOnce(t *testing.T) {
	tape := newTape(iotest.OneByteReader(strings.NewReader("hello")), 4)
	if got, err := io.ReadAll(next(t, tape)); string(got) != "hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := tape.next(); !errors.Is(err, errTapeOver) || tape.again() {
		t.Errorf("next: %v", err)
	}
}

func TestASealedBodyIsReadToItsEnd(t *testing.T) {
	tape := newTape(iotest.OneByteReader(strings.NewReader("hello")), 100)
	if _, err := io.ReadFull(next(t, tape), make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	r := next(t, tape) // has three bytes to replay
	tape.seal()
	if got, err := io.ReadAll(r); string(got) != "hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if tape.kept != nil || tape.again() {
		t.Errorf("kept %q", tape.kept)
	}
}

func TestWhatALateReadBringsIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, client := io.Pipe()
		tape := newTape(source, 3)
		first := next(t, tape)
		late := make(chan error)
		go func() {
			_, err := first.Read(make([]byte, 10))
			late <- err
		}()
		synctest.Wait() // the first reader is in a Read
		first.Close()
		second := next(t, tape)
		go func() {
			_, _ = client.Write([]byte("hello "))
			_, _ = client.Write([]byte("world"))
			client.Close()
		}()
		if err := <-late; !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("late read: %v", err)
		}
		if got, err := io.ReadAll(second); string(got) != "hello world" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestAnErrorOfABodyIsPassedOn(t *testing.T) {
	broken := errors.New("broken")
	tape := newTape(io.MultiReader(strings.NewReader("ab"), iotest.ErrReader(broken)), 100)
	for range 2 {
		got, err := io.ReadAll(next(t, tape))
		if string(got) != "ab" || !errors.Is(err, broken) {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

func FuzzTape(f *testing.F) {
	f.Add([]byte("hello"), []byte{1, 0, 3, 0, 9})
	f.Fuzz(func(t *testing.T, data, steps []byte) {
		tape := newTape(bytes.NewReader(data), 16)
		r := next(t, tape)
		at := 0
		for _, s := range steps {
			if s == 0 {
				again, err := tape.next()
				if err != nil {
					continue // the present reader goes on
				}
				r, at = again, 0
				continue
			}
			p := make([]byte, s)
			n, _ := r.Read(p)
			if !bytes.Equal(p[:n], data[at:at+n]) {
				t.Fatalf("at %d: got %q, want %q", at, p[:n], data[at:at+n])
			}
			at += n
		}
		rest, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(rest, data[at:]) {
			t.Fatalf("at %d: got %q, %v, want %q", at, rest, err, data[at:])
		}
	})
}
