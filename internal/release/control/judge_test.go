package control

import (
	"testing"

	"github.com/bightdev/bight/internal/release/verdict"
)

// The status has the figures of a verdict as its sentence has them.
func TestTheStatusHasTheFiguresOfTheSentence(t *testing.T) {
	got := status(verdict.Verdict{Is: verdict.Bad, E: 24012, AbortAt: 2000})
	if got.E != "24000" || got.AbortAt != "2000" {
		t.Errorf("E = %s, abort at %s; want 24000 and 2000", got.E, got.AbortAt)
	}
}
