package worker

import (
	"bytes"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// board is a log that people can be told more by.
type board struct {
	bytes.Buffer
	told []string
}

func (b *board) Doing(text string) { b.told = append(b.told, text) }

func TestWhatTakesLongIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{}
		quick := tellOf(b)
		quick.say("fetching the commit")
		quick.end()
		time.Sleep(2 * patience)
		if synctest.Wait(); len(b.told) > 0 {
			t.Errorf("what took no time is told: %q", b.told)
		}
		long := tellOf(b)
		long.say("fetching the commit")
		time.Sleep(2 * patience)
		synctest.Wait()
		long.say("checking out 200 MiB in 3 files")
		long.end()
		if want := []string{"fetching the commit", "checking out 200 MiB in 3 files", ""}; !slices.Equal(b.told, want) {
			t.Errorf("told is %q, want %q", b.told, want)
		}
		nobody := tellOf(&b.Buffer)
		time.Sleep(2 * patience)
		synctest.Wait()
		nobody.say("fetching the commit")
		nobody.end()
	})
}
