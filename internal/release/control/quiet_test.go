package control

import (
	"testing"
	"time"

	"github.com/bightdev/bight/internal/release/latency"
	"github.com/bightdev/bight/internal/release/spec"
)

// Nodes tell of stable's latencies twice a second. What has come since the last time is not
// known, and no time without requests: 2 in the first 50 ms are 40 a second until it is known
// that they are not.
func TestTheTimeUntilNodesTellMoreIsNotWithoutRequests(t *testing.T) {
	at := time.Now()
	var two latency.Histogram
	two.Add(time.Millisecond)
	two.Add(time.Millisecond)
	b := &bench{stable: map[string]told{"node-1": {spec.Latencies{Counts: two, Over: 50 * time.Millisecond}, at}}}
	for after, want := range map[time.Duration]time.Duration{
		0:                      50 * time.Millisecond,
		700 * time.Millisecond: 50 * time.Millisecond,
		3 * time.Second:        2050 * time.Millisecond,
	} {
		if all, over := b.baseline(at.Add(after)); over != want || all.N() != 2 {
			t.Errorf("%v after the last word: %d requests in %v, want 2 in %v", after, all.N(), over, want)
		}
	}
}
