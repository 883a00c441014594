package jail

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	Main(os.Args)
	if role := os.Getenv("JAIL_TEST_ROLE"); role != "" {
		os.Exit(play(role, os.Args[1:]))
	}
	// Under the race detector, each process would take a second longer to exit.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
