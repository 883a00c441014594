package agent

import "testing"

func TestStreamsAreAsManyAsDescriptorsAllow(t *testing.T) {
	for descriptors, want := range map[uint64]int{0: 1024, 1024: 1024, 20000: 2500, 1 << 20: 4096, 1<<64 - 1: 4096} {
		if got := streamsFor(descriptors); got != want {
			t.Errorf("%d descriptors: %d streams, want %d", descriptors, got, want)
		}
	}
}
