package session

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/bightdev/bight/internal/app"
)

// position is where a goroutine is, as Go's tracebacks tell it: a file by its import
// path, for programs have no path of this machine in them.
var position = regexp.MustCompile(`^\t([^\s:]+\.go)(:[0-9]+( .*)?)$`)

// localText is local for each line of a text.
func localText(a *app.App, text string) string {
	all := strings.Split(text, "\n")
	for i, line := range all {
		all[i] = local(a, line)
	}
	return strings.Join(all, "\n")
}

// local replaces the import path of a file of the app, in a line of a traceback, with
// where the file is here, for terminals and editors to lead there.
func local(a *app.App, line string) string {
	m := position.FindStringSubmatch(line)
	if m == nil {
		return line
	}
	for _, s := range a.Services {
		if s.Build.Kind != app.BuildGo {
			continue
		}
		dir := filepath.Join(a.Dir, filepath.FromSlash(s.Build.Module))
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err != nil {
			continue
		}
		path := modfile.ModulePath(mod)
		rel, ok := strings.CutPrefix(m[1], path+"/")
		if path == "" || !ok {
			continue
		}
		file := filepath.Join(dir, filepath.FromSlash(rel))
		if _, err := os.Stat(file); err == nil {
			return "\t" + file + m[2]
		}
	}
	return line
}
