package term

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// Duration writes d as people say it: "0.4 ms", "84 ms", "1.2 s", "12 s",
// "2 min 5 s", "1 h 3 min".
func Duration(d time.Duration) string {
	switch ms := float64(d) / float64(time.Millisecond); {
	case ms < 0:
		return "-" + Duration(-max(d, -math.MaxInt64))
	case ms == 0:
		return "0 ms"
	case ms < 0.95:
		return strconv.FormatFloat(max(ms, 0.1), 'f', 1, 64) + " ms"
	case ms < 999.5:
		return strconv.FormatFloat(ms, 'f', 0, 64) + " ms"
	case ms < 9950:
		return strconv.FormatFloat(ms/1000, 'f', 1, 64) + " s"
	}
	s := int64(d.Round(time.Second) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %d s", s/60, s%60)
	}
	return fmt.Sprintf("%d h %d min", s/3600, s%3600/60)
}

// Bytes writes n in decimal units: "812 B", "214 kB", "3.4 MB".
func Bytes(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), 0
	for v >= 999.5 && unit < 5 {
		v /= 1000
		unit++
	}
	name := [...]string{"B", "kB", "MB", "GB", "TB", "PB"}[unit]
	if v < 9.95 && unit > 1 {
		return fmt.Sprintf("%.1f %s", v, name)
	}
	return fmt.Sprintf("%.0f %s", v, name)
}

// Count writes n of something: "1 file", "3 files". The plural takes an s.
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// Files names changed files: "main.go", "a.go, b.go", "a.go and 12 more".
func Files(paths []string) string {
	switch len(paths) {
	case 0:
		return ""
	case 1:
		return paths[0]
	case 2:
		return paths[0] + ", " + paths[1]
	}
	return fmt.Sprintf("%s and %d more", paths[0], len(paths)-1)
}
