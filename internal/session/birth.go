package session

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// Birth is a word of five lower case letters that tells a process of this
// machine from all others that have had, or will have, its number: it is made of that
// and of when the process was started. Without such a process it is an error.
func Birth(pid int) (string, error) {
	at, err := started(pid)
	if err != nil {
		return "", fmt.Errorf("when process %d was started: %w", pid, err)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", pid, at))
	word := make([]byte, birthLength)
	for i := range word {
		word[i] = 'a' + sum[i]%26
	}
	return string(word), nil
}

// birthLength is how long the word is: two processes that come to have one number have
// the same word once in 10 million times.
const birthLength = 5

// IsBirth reports whether a word could be a Birth.
func IsBirth(word string) bool {
	return len(word) == birthLength && !strings.ContainsFunc(word, func(r rune) bool { return r < 'a' || r > 'z' })
}
