package detect

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bightdev/bight/internal/app"
)

// outputDirs hold what a tool made of the sources next to them, or the files of
// the service that they are in.
var outputDirs = map[string]bool{"dist": true, "build": true, "out": true, "public": true, "static": true, "www": true, "html": true, "htdocs": true, "_site": true}

// templateDirs hold pages that are filled in by a program.
var templateDirs = map[string]bool{"templates": true, "template": true, "views": true, "tmpl": true, "layouts": true, "partials": true}

const staticPort = 8080

// staticSites finds the directories with an index.html that no program serves.
func staticSites(root string, l *listing, services []built, appName string) (sites []*app.Service, notes []app.Note) {
	var kept []string
	for _, dir := range l.sites {
		if slices.ContainsFunc(kept, func(k string) bool { return under(dir, k) }) || templateDirs[path.Base(dir)] {
			continue
		}
		if owner := siteOwner(dir, services); owner != "" {
			continue
		}
		if k := inLibrary(dir, l); k != "" {
			notes = append(notes, app.Note{
				Text: fmt.Sprintf("%s has an index.html, but belongs to the Go package in %s; left alone. To serve it: services: {NAME: {build: {static: %s}}} in bight.yaml", dir, k, dir),
				From: app.From{File: path.Join(dir, "index.html"), Confidence: app.Likely},
			})
			continue
		}
		if p, ok := aside(dir); ok && (len(services) > 0 || len(l.sites) > 1) {
			notes = append(notes, app.Note{
				Text: fmt.Sprintf("%s has an index.html, but is below %s/; left alone", dir, p),
				From: app.From{File: path.Join(dir, "index.html"), Confidence: app.Likely},
			})
			continue
		}
		if l.scripts[dir] && needsBuild(root, dir) {
			if !slices.ContainsFunc(l.sites, func(s string) bool {
				return s != dir && under(s, dir) && outputDirs[path.Base(s)] && path.Base(s) != "public"
			}) {
				notes = append(notes, app.Note{
					Text: fmt.Sprintf("%s has to be built by its package.json before it can be served; left alone. Build it and name the result: services: {%s: {build: {static: %s}}} in bight.yaml",
						dir, siteName(dir, appName, false), path.Join(dir, "dist")),
					From: app.From{File: path.Join(dir, "package.json"), Confidence: app.Likely},
				})
				kept = append(kept, dir)
			}
			continue
		}
		kept = append(kept, dir)
		sites = append(sites, staticService(dir, ""))
	}
	for _, s := range sites {
		s.Name = siteName(s.Source.Dir, appName, len(sites) == 1 && len(services) == 0)
		if s.Source.Dir == "." && len(services) > 0 && slices.ContainsFunc(services, func(b built) bool { return b.svc.Name == s.Name }) {
			s.Name = "web"
		}
	}
	return sites, notes
}

// inLibrary is the Go package, not a program and not at the root, that a
// directory is in or below.
func inLibrary(dir string, l *listing) string {
	for d := dir; d != "."; d = path.Dir(d) {
		if l.goDirs[d] {
			if slices.Contains(l.mains, d) {
				return ""
			}
			return d
		}
	}
	return ""
}

func staticService(dir, name string) *app.Service {
	from := app.From{File: path.Join(dir, "index.html"), Line: 1, Confidence: app.Likely, Why: "index.html that no program serves"}
	port := from
	port.Why = "the port of the file server"
	return &app.Service{
		Name:   name,
		Source: app.Source{Dir: dir, From: from},
		Build:  app.Build{Kind: app.BuildStatic, Root: dir, From: from},
		Ports:  []app.Port{{Name: "http", Number: staticPort, Protocol: app.HTTP, From: port}},
		Health: &app.Health{Kind: app.HealthHTTP, Port: staticPort, Path: "/", From: port},
	}
}

// siteOwner is the service that serves the directory itself, or "".
func siteOwner(dir string, services []built) string {
	for _, b := range services {
		for _, o := range b.owned {
			if under(dir, o) || under(o, dir) && dir != "." || o == path.Join(dir, "index.html") {
				return b.svc.Name
			}
		}
		// It serves files from a place that cannot be told: most likely from here.
		if b.files && len(b.owned) == 0 && under(dir, b.svc.Source.Dir) {
			return b.svc.Name
		}
	}
	return ""
}

func siteName(dir, appName string, alone bool) string {
	if dir == "." || alone {
		return appName
	}
	name := path.Base(dir)
	if up := path.Dir(dir); outputDirs[name] && up != "." {
		name = path.Base(up)
	}
	return app.Label(name)
}

// needsBuild reports whether a package.json has a build script.
func needsBuild(root, dir string) bool {
	data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(dir), "package.json"))
	if err != nil {
		return false
	}
	var p struct {
		Scripts map[string]string `json:"scripts"`
	}
	if json.Unmarshal(data, &p) != nil {
		return false
	}
	return strings.TrimSpace(p.Scripts["build"]) != ""
}
