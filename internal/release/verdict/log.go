package verdict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Log is all that a verdict came from. As text it is JSON lines: the config and the
// start in the first, an observation in each other, so that it can be appended to.
type Log struct {
	Config       Config
	Start        time.Time
	Observations []Observation
}

// head is the first line of a log.
type head struct {
	Start  time.Time `json:"start"`
	Config Config    `json:"config"`
}

// MarshalText writes a log as JSON lines.
func (l Log) MarshalText() ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	if err := enc.Encode(head{l.Start, l.Config}); err != nil {
		return nil, fmt.Errorf("write the head of a log: %w", err)
	}
	for i, o := range l.Observations {
		if err := enc.Encode(o); err != nil {
			return nil, fmt.Errorf("write observation %d of a log: %w", i+1, err)
		}
	}
	return out.Bytes(), nil
}

// UnmarshalText reads a log. A last line without its end was cut off while it was
// written, and is left out.
func (l *Log) UnmarshalText(text []byte) error {
	lines := bytes.Split(text, []byte("\n"))
	var h head
	if err := strict(lines[0], &h); err != nil {
		return fmt.Errorf("read line 1 of a log: %w", err)
	}
	*l = Log{Config: h.Config, Start: h.Start}
	for i, line := range lines[1:max(len(lines)-1, 1)] {
		var o Observation
		if err := strict(line, &o); err != nil {
			return fmt.Errorf("read line %d of a log: %w", i+2, err)
		}
		l.Observations = append(l.Observations, o)
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

// Replay gives the state and the verdict that a log leads to.
func Replay(l Log) (State, Verdict, error) {
	j, err := New(l.Config)
	if err != nil {
		return State{}, Verdict{}, fmt.Errorf("replay a log: %w", err)
	}
	s := j.Start(l.Start)
	for _, o := range l.Observations {
		j.observe(&s.core, o)
	}
	return s, j.Verdict(s), nil
}
