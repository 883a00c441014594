package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"time"
)

// row is one line of the table: something of ours, and the limit that it is to
// keep, as a ratio to a reference or by itself.
type row struct {
	Bench     string  `json:"bench"`
	Name      string  `json:"name"`
	Reference *series `json:"reference,omitempty"`
	Ours      series  `json:"ours"`
	// Limit is what the ratio, or without a reference ours, may be at most. 0 is
	// no limit: the row is told for what it tells.
	Limit float64 `json:"limit,omitempty"`
	// Phases are medians of what ours says of its own parts, in ms.
	Phases map[string]float64 `json:"phases,omitempty"`
	// Load is the load average when the benchmark began and when it ended.
	Load [2]float64 `json:"load"`
}

// series is one thing, measured again and again.
type series struct {
	What   string    `json:"what"`
	Unit   string    `json:"unit"`
	Values []float64 `json:"values"`
}

// milliseconds is the unit of a series of durations.
const milliseconds = "ms"

func durations(what string, all []time.Duration) series {
	s := series{What: what, Unit: milliseconds}
	for _, d := range all {
		s.Values = append(s.Values, float64(d)/float64(time.Millisecond))
	}
	return s
}

// median of no value is 0.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return (sorted[mid-1] + sorted[mid]) / 2
}

func (s series) median() float64 { return median(s.Values) }

// upper returns the value that no less than a part q of them are at most, of no values 0.
func upper(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]
}

// tails are two rows: the median of what was measured, and its 99th percentile, which
// has a limit.
func tails(name, what string, all []time.Duration, limit float64) []row {
	s := durations(what, all)
	tail := series{What: fmt.Sprintf("%s; of %d", what, len(all)), Unit: s.Unit, Values: []float64{upper(s.Values, 0.99)}}
	return []row{{Name: name, Ours: s}, {Name: name + ", 99th percentile", Ours: tail, Limit: limit}}
}

// ratio returns ours to the reference, or ours where there is none.
func (r row) ratio() float64 {
	if r.Reference == nil {
		return r.Ours.median()
	}
	if reference := r.Reference.median(); reference > 0 {
		return r.Ours.median() / reference
	}
	return 0
}

// verdict says whether the limit is kept.
func (r row) verdict() string {
	switch {
	case r.Limit == 0:
		return ""
	case len(r.Ours.Values) == 0 || r.Reference != nil && len(r.Reference.Values) == 0:
		return "not measured"
	case r.ratio() <= r.Limit:
		return "met"
	}
	return "missed"
}

// phases returns the median of each phase. A phase that an event does not name
// took no time in it.
func phases(events []event) map[string]float64 {
	byName := map[string][]float64{}
	for _, e := range events {
		for name := range e.MS {
			byName[name] = nil
		}
	}
	if len(byName) == 0 {
		return nil
	}
	medians := map[string]float64{}
	for name := range byName {
		var values []float64
		for _, e := range events {
			values = append(values, e.MS[name])
		}
		medians[name] = median(values)
	}
	return medians
}

// readRows reads rows that another program measured.
func readRows(file string) ([]row, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("-merge: %w", err)
	}
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("-merge: %s is not what bench -o json prints: %w", file, err)
	}
	return r.Rows, nil
}
