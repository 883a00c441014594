package suite

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
)

type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Errors   int          `xml:"errors,attr"`
	Skipped  int          `xml:"skipped,attr"`
	Time     string       `xml:"time,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name       string          `xml:"name,attr"`
	Tests      int             `xml:"tests,attr"`
	Failures   int             `xml:"failures,attr"`
	Errors     int             `xml:"errors,attr"`
	Skipped    int             `xml:"skipped,attr"`
	Time       string          `xml:"time,attr"`
	Properties []junitProperty `xml:"properties>property,omitempty"`
	Cases      []junitCase     `xml:"testcase"`
	Suites     []junitSuite    `xml:"testsuite"`
	Output     string          `xml:"system-out,omitempty"`
}

type junitProperty struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type junitCase struct {
	Class   string        `xml:"classname,attr"`
	Name    string        `xml:"name,attr"`
	Time    string        `xml:"time,attr"`
	File    string        `xml:"file,attr,omitempty"`
	Line    int           `xml:"line,attr,omitempty"`
	Failure *junitFailure `xml:"failure"`
	Error   *junitFailure `xml:"error"`
	Flaky   *junitFailure `xml:"flakyFailure"`
	Skipped *junitFailure `xml:"skipped"`
}

type junitFailure struct {
	Message string `xml:"message,attr,omitempty"`
	Text    string `xml:",chardata"`
}

// WriteJUnit writes a result as JUnit XML. A flaky test in quarantine is a
// flakyFailure, as other tools write it.
func WriteJUnit(w io.Writer, res *Result) error {
	all := junitSuites{Time: seconds(res.Seconds)}
	for _, u := range res.Units {
		s := junitSuite{Name: printable(u.Name), Time: seconds(u.Seconds)}
		if u.Cached != "" {
			s.Properties = append(s.Properties, junitProperty{"cached", printable(u.Cached)})
		}
		for _, t := range u.Tests {
			s.add(caseOf(u, t))
		}
		if u.Status != Passed && len(failing(u.Tests)) == 0 {
			s.add(junitCase{Class: s.Name, Name: "(all)", Error: &junitFailure{printable(u.Reason), text(u.Output)}})
		}
		all.Tests, all.Failures, all.Errors, all.Skipped = all.Tests+s.Tests, all.Failures+s.Failures, all.Errors+s.Errors, all.Skipped+s.Skipped
		all.Suites = append(all.Suites, s)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(all); err != nil {
		return fmt.Errorf("write JUnit: %w", err)
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func (s *junitSuite) add(c junitCase) {
	s.Tests++
	switch {
	case c.Failure != nil:
		s.Failures++
	case c.Error != nil:
		s.Errors++
	case c.Skipped != nil:
		s.Skipped++
	}
	s.Cases = append(s.Cases, c)
}

func caseOf(u UnitResult, t Test) junitCase {
	c := junitCase{Class: printable(u.Name), Name: printable(t.Name), Time: seconds(t.Seconds), File: printable(t.File), Line: t.Line}
	f := &junitFailure{Text: text(t.Output)}
	if t.File != "" {
		f.Message = printable(fmt.Sprintf("%s:%d", t.File, t.Line))
	}
	switch {
	case t.Quarantined:
		c.Flaky = f
	case t.Status == Failed:
		c.Failure = f
	case t.Status == Stopped:
		f.Message = printable(u.Reason)
		c.Error = f
	case t.Status == Skipped:
		c.Skipped = &junitFailure{}
	}
	return c
}

func seconds(s float64) string { return strconv.FormatFloat(s, 'f', 3, 64) }

func text(lines []string) string { return printable(strings.Join(lines, "\n")) }

// printable leaves out what XML can't hold.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r != unicode.ReplacementChar && r >= ' ' && r != 0xFFFE && r != 0xFFFF {
			return r
		}
		return -1
	}, strings.ToValidUTF8(s, ""))
}

// deepest is how far suites may be nested in a report.
const deepest = 50

// ReadJUnit reads the tests of a JUnit report: of a testsuites element or a
// testsuite by itself. A test's name has its class before it.
func ReadJUnit(r io.Reader) ([]Test, error) {
	dec := xml.NewDecoder(r)
	var tests []Test
	for depth := 0; ; {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			if tests == nil {
				return nil, errors.New("read JUnit: it has no test")
			}
			return tests, nil
		} else if err != nil {
			return nil, fmt.Errorf("read JUnit: %w", err)
		}
		switch el := tok.(type) {
		case xml.StartElement:
			if el.Name.Local != "testcase" {
				if depth++; depth > deepest {
					return nil, fmt.Errorf("read JUnit: elements are nested more than %d deep", deepest)
				}
				continue
			}
			var c junitCase
			if err := dec.DecodeElement(&c, &el); err != nil {
				return nil, fmt.Errorf("read JUnit: %w", err)
			}
			if len(tests) >= mostTests {
				return nil, fmt.Errorf("read JUnit: it has more than %d tests", mostTests)
			}
			tests = append(tests, c.test())
		case xml.EndElement:
			depth--
		}
	}
}

func (c junitCase) test() Test {
	t := Test{Name: c.Name, Status: Passed}
	if c.Class != "" && c.Class != c.Name {
		t.Name = c.Class + "." + c.Name
	}
	t.Name = strings.ReplaceAll(t.Name, "/", "∕") // it is no subtest
	if s, err := strconv.ParseFloat(strings.ReplaceAll(c.Time, ",", ""), 64); err == nil && s >= 0 && s < 1e9 {
		t.Seconds = s
	}
	why := c.Failure
	if why == nil {
		why = c.Error
	}
	switch {
	case why != nil:
		t.Status, t.File, t.Line = Failed, c.File, c.Line
		var kept tall
		for l := range strings.Lines(why.Message + "\n" + why.Text) {
			if l = strings.TrimRight(l, "\r\n"); l != "" {
				kept.add(l)
			}
		}
		t.Output = kept.all()
	case c.Skipped != nil:
		t.Status = Skipped
	}
	return t
}
