package suite

import (
	"crypto/sha256"
	"encoding/json"
)

// DurationsKey is what the durations of the tests of an app in a directory of its
// repository are called among what workers share.
func DurationsKey(dir string) string {
	sum := sha256.Sum256([]byte("durations of the tests in " + dir))
	return hexSum(sum[:])
}

// DurationsKind is their kind.
const DurationsKind = "durations"

// KeepDurations is how they are kept, by kind and key.
func KeepDurations(dir string, seconds map[string]float64) map[string][]byte {
	b, err := json.Marshal(seconds)
	if err != nil || len(seconds) == 0 {
		return nil
	}
	return map[string][]byte{DurationsKind + "/" + DurationsKey(dir): b}
}
