package session

import (
	"os"
	"os/exec"
	"testing"
)

func TestABirthIsThatOfOneProcess(t *testing.T) {
	own, err := Birth(os.Getpid())
	if err != nil || !IsBirth(own) {
		t.Fatalf("got %q, %v", own, err)
	}
	if again, err := Birth(os.Getpid()); again != own || err != nil {
		t.Errorf("asked again: got %q, %v, want %q", again, err, own)
	}
	for _, word := range []string{"", "47111", "abcd", "abcdef", "abcdE", "äöü"} {
		if IsBirth(word) {
			t.Errorf("%q is taken for one", word)
		}
	}
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if other, err := Birth(child.Process.Pid); other == own || err != nil {
		t.Errorf("another process: got %q, %v", other, err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it says that it was killed
	if word, err := Birth(child.Process.Pid); err == nil {
		t.Errorf("a process that has gone: got %q", word)
	}
}
