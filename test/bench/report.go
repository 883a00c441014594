package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// report is everything that one run measured.
type report struct {
	Machine machine `json:"machine"`
	Samples int     `json:"samples"`
	Rows    []row   `json:"rows"`
}

// machine is where it was measured.
type machine struct {
	Processors int     `json:"processors"`
	System     string  `json:"system"`
	Before     float64 `json:"loadBefore"` // load average of the last minute
	After      float64 `json:"loadAfter"`
}

func (m machine) String() string {
	return fmt.Sprintf("%d processors, %s, load average %.1f before and %.1f after", m.Processors, m.System, m.Before, m.After)
}

// writerOf returns how a report is printed.
func writerOf(format string) (func(io.Writer, *report) error, error) {
	switch format {
	case "table":
		return writeTable, nil
	case "markdown":
		return writeMarkdown, nil
	case "json":
		return writeJSON, nil
	}
	return nil, fmt.Errorf("-o %s: there is table, markdown and json", format)
}

func writeJSON(w io.Writer, r *report) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

func heads() []string {
	return []string{"row", "reference", "ours", "ratio", "target", "result", "load"}
}

// cells returns a row's columns.
func cells(r row) []string {
	reference, ratio, target := "", "", ""
	if r.Reference != nil {
		reference, ratio = r.Reference.String(), fmt.Sprintf("%.2f", r.ratio())
	}
	switch {
	case r.Limit == 0:
	case r.Reference != nil:
		target = fmt.Sprintf("≤ %g ×", r.Limit)
	default:
		target = fmt.Sprintf("< %g %s", r.Limit, r.Ours.Unit)
	}
	return []string{r.Name, reference, r.Ours.String(), ratio, target, r.verdict(), fmt.Sprintf("%.1f–%.1f", r.Load[0], r.Load[1])}
}

// String returns the median and, where there is more than one value, the least
// and the greatest.
func (s series) String() string {
	switch len(s.Values) {
	case 0:
		return "–"
	case 1:
		return number(s.Values[0]) + " " + s.Unit
	}
	return fmt.Sprintf("%s %s [%s–%s]", number(s.median()), s.Unit, number(slices.Min(s.Values)), number(slices.Max(s.Values)))
}

// number prints three digits that matter.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// details says what is compared in a row and what ours says of its parts.
func details(r row) string {
	text := r.Name + ": " + r.Ours.What
	if r.Reference != nil {
		text += "; reference: " + r.Reference.What
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(r.Phases)) {
		if name != "total" {
			parts = append(parts, name+" "+number(r.Phases[name]))
		}
	}
	if total, ok := r.Phases["total"]; ok {
		parts = append(parts, "total "+number(total))
	}
	if len(parts) > 0 {
		text += "; its own account in ms, medians: " + strings.Join(parts, ", ")
	}
	return text
}

func writeTable(w io.Writer, r *report) error {
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, strings.ToUpper(strings.Join(heads(), "\t")))
	for _, row := range r.Rows {
		fmt.Fprintln(tab, strings.Join(cells(row), "\t"))
	}
	if err := tab.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nmedians of %d [least–greatest]; %s\n", r.Samples, r.Machine)
	for _, row := range r.Rows {
		fmt.Fprintln(w, "  "+details(row))
	}
	return nil
}

func writeMarkdown(w io.Writer, r *report) error {
	fmt.Fprintln(w, "| "+strings.Join(heads(), " | ")+" |")
	fmt.Fprintln(w, strings.Repeat("|---", len(heads()))+"|")
	for _, row := range r.Rows {
		fmt.Fprintln(w, "| "+strings.Join(cells(row), " | ")+" |")
	}
	fmt.Fprintf(w, "\nMedians of %d [least–greatest]; %s.\n\n", r.Samples, r.Machine)
	for _, row := range r.Rows {
		fmt.Fprintln(w, "- "+details(row))
	}
	return nil
}
