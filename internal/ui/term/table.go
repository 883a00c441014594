package term

import "strings"

// Table is rows under a head. Cells that begin with ✓, ! or ✗ are coloured.
type Table struct {
	Head []string
	Rows [][]string
	// Services tells that the first column holds names of services.
	Services bool
	// Empty is printed where there are no rows: a sentence.
	Empty string
}

// minCell is as narrow as a column gets on a small screen.
const minCell = 8

// table lays out t for a screen of so many columns; 0 means no limit. Where it
// is too wide the widest columns give way, but never the first, which is a name,
// and the last, which often is a URL.
func (k *look) table(t *Table, width int) []line {
	if len(t.Rows) == 0 {
		if t.Empty == "" {
			return nil
		}
		return []line{{{plain, clean(t.Empty)}}}
	}
	all := make([]int, len(t.Head))
	measure := func(cells []string) {
		for i := range min(len(cells), len(all)) {
			all[i] = max(all[i], columnsOf(clean(cells[i])))
		}
	}
	measure(t.Head)
	for _, r := range t.Rows {
		measure(r)
	}
	if width > 0 {
		narrow(all, width)
	}
	row := func(cells []string, style func(i int, cell string) string) line {
		var l line
		for i := range min(len(cells), len(all)) {
			text := clean(cells[i])
			if i < len(all)-1 {
				text = pad(cut(text, all[i]), all[i]+2)
			}
			l = append(l, span{style(i, cells[i]), text})
		}
		return l
	}
	lines := []line{row(t.Head, func(int, string) string { return faint })}
	for _, r := range t.Rows {
		if t.Services && len(r) > 0 {
			k.meet(r[0])
		}
		lines = append(lines, row(r, func(i int, cell string) string {
			if i == 0 && t.Services {
				return k.colors[cell]
			}
			return cellStyle(cell)
		}))
	}
	return lines
}

// narrow takes columns from the widest between the first and the last until a row fits.
func narrow(all []int, width int) {
	total := 2 * (len(all) - 1)
	for _, n := range all {
		total += n
	}
	for ; total > width; total-- {
		widest := -1
		for i := 1; i < len(all)-1; i++ {
			if all[i] > minCell && (widest < 0 || all[i] > all[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		all[widest]--
	}
}

func cellStyle(cell string) string {
	switch {
	case strings.HasPrefix(cell, "✓"):
		return good
	case strings.HasPrefix(cell, "!"):
		return caution
	case strings.HasPrefix(cell, "✗"):
		return bad
	}
	return plain
}
