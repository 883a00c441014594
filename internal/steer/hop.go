package steer

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// What two doors say to each other about a request that one gives to the other, in the header
// Carried. A request has carriedAsks there; an answer has how many microseconds the app took to
// answer, from when the second door had the head of the request, or carriedRefused. So a version
// is judged by what its app does, and not by the way to it, which its requests have and those of
// the version beside it have not. Doors of before asked by "1", and are told nothing.
const (
	carriedAsks    = "2"
	carriedRefused = "refused" // the app takes no connections; it has got nothing
)

// errRefused says that a pod of another version has a door, and nobody behind it.
var errRefused = errors.New("the app in the pod takes no connections")

// carried is the head of a request that another door gets.
func carried(head []byte) []byte { return withField(head, Carried, carriedAsks) }

// uncarried takes the header Carried off a head, every time it is there, and leaves every
// other byte.
func uncarried(head []byte) []byte {
	out := make([]byte, 0, len(head))
	i := firstLine(head)
	out = append(out, head[:i]...)
	for i < len(head) {
		line := head[i : i+firstLine(head[i:])]
		if len(line) <= len(Carried) || line[len(Carried)] != ':' || !strings.EqualFold(string(line[:len(Carried)]), Carried) {
			out = append(out, line...)
		}
		i += len(line)
	}
	return out
}

// told is what the header of an answer says: how long the app took, -1 if it does not say, or
// errRefused.
func told(said string) (took time.Duration, err error) {
	if said == carriedRefused {
		return -1, errRefused
	}
	us, err := strconv.ParseUint(said, 10, 40) // two weeks
	if err != nil {
		return -1, nil
	}
	return time.Duration(us) * time.Microsecond, nil
}

// tell is what the header of an answer says of an app that has answered now.
func tell(asked time.Time) string {
	return strconv.FormatInt(max(time.Since(asked).Microseconds(), 0), 10)
}
