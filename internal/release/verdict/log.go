package verdict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Log is what a judge was told in one stretch, in the order in which it took it, and what
// it said. All of it was judged by one config.
type Log struct {
	// Judge names whose log it is, among those that may convict one release.
	Judge  string
	Config Config
	Start  time.Time // of the release's judging
	// After is how many observations the judge had taken before, and State what they had
	// come to: empty in a log that begins where the judging began.
	After        int64
	State        json.RawMessage
	Observations []Observation
	Said         []Said
}

// Said is a verdict that a judge gave after so many of a log's observations.
type Said struct {
	After   int
	Verdict json.RawMessage
}

// Record is all that a verdict came from: the logs of one judge. Each goes on from a
// state that the one before has come to. That need not be its last one: what a process
// had not written down when it was killed counts for nothing.
//
// As text it is JSON lines, so it can be appended to: a head begins a log, and each other
// line is an observation or a verdict.
type Record []Log

// line is one line of a record: one of the three.
type line struct {
	Log  *head           `json:"log,omitempty"`
	Said json.RawMessage `json:"said,omitempty"`
	*Observation
}

type head struct {
	Judge  string          `json:"judge,omitempty"`
	Start  time.Time       `json:"start"`
	After  int64           `json:"after,omitempty"`
	Config Config          `json:"config"`
	State  json.RawMessage `json:"state,omitempty"`
}

// MarshalText writes a record as JSON lines.
func (r Record) MarshalText() ([]byte, error) {
	var out []byte
	for _, l := range r {
		text, err := l.text(true)
		if err != nil {
			return nil, err
		}
		out = append(out, text...)
	}
	return out, nil
}

// text are the lines of a log, with its head or without.
func (l Log) text(headed bool) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	if headed {
		if err := enc.Encode(line{Log: &head{l.Judge, l.Start, l.After, l.Config, l.State}}); err != nil {
			return nil, fmt.Errorf("write the head of a log: %w", err)
		}
	}
	said := l.Said
	for i := range len(l.Observations) + 1 {
		for ; len(said) > 0 && said[0].After <= i; said = said[1:] {
			if err := enc.Encode(line{Said: said[0].Verdict}); err != nil {
				return nil, fmt.Errorf("write a verdict of a log: %w", err)
			}
		}
		if i == len(l.Observations) {
			break
		}
		if err := enc.Encode(line{Observation: &l.Observations[i]}); err != nil {
			return nil, fmt.Errorf("write observation %d of a log: %w", i+1, err)
		}
	}
	return out.Bytes(), nil
}

// UnmarshalText reads a record. A last line without its end was cut off while it was
// written, and is left out.
func (r *Record) UnmarshalText(text []byte) error {
	*r = nil
	lines := bytes.Split(text, []byte("\n"))
	for i, raw := range lines[:len(lines)-1] {
		var of line
		if err := strict(raw, &of); err != nil {
			return fmt.Errorf("read line %d of a log: %w", i+1, err)
		}
		if h := of.Log; h != nil {
			*r = append(*r, Log{Judge: h.Judge, Config: h.Config, Start: h.Start, After: h.After, State: h.State})
			continue
		}
		if len(*r) == 0 {
			return fmt.Errorf("read line %d of a log: it has to begin with a head, and this is none", i+1)
		}
		switch l := &(*r)[len(*r)-1]; {
		case of.Said != nil:
			l.Said = append(l.Said, Said{len(l.Observations), of.Said})
		case of.Observation != nil:
			l.Observations = append(l.Observations, *of.Observation)
		default:
			return fmt.Errorf("read line %d of a log: it says nothing", i+1)
		}
	}
	if len(*r) == 0 {
		return errors.New("there is no log in it")
	}
	return nil
}

func strict(line []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if dec.More() {
		return errors.New("more than one value in a line")
	}
	return nil
}

// Judges are the records of a text in which several judges' logs are, by name. The order
// of each is kept.
func (r Record) Judges() (names []string, of map[string]Record) {
	of = map[string]Record{}
	for _, l := range r {
		if _, known := of[l.Judge]; !known {
			names = append(names, l.Judge)
		}
		of[l.Judge] = append(of[l.Judge], l)
	}
	return names, of
}
