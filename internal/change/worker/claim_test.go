package worker

import "testing"

func TestEachWorkerHasADirectoryOfItsOwnAndAnEarlierOneAgain(t *testing.T) {
	base := t.TempDir()
	a, releaseA, err := Claim(base)
	if err != nil {
		t.Fatal(err)
	}
	b, releaseB, err := Claim(base)
	if err != nil {
		t.Fatal(err)
	}
	if a == b {
		t.Errorf("two workers have %s", a)
	}
	if err := releaseA(); err != nil {
		t.Error(err)
	}
	again, release, err := Claim(base)
	if err != nil {
		t.Fatal(err)
	}
	if again != a {
		t.Errorf("got %s, want %s, which was given back", again, a)
	}
	for _, release := range []func() error{release, releaseB} {
		if err := release(); err != nil {
			t.Error(err)
		}
	}
}
