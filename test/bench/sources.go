package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
)

// marker is what a round's save has in it and no other round's.
func marker(round int) string { return fmt.Sprintf("round-%06d", round) }

const smallMod = "module example.com/small\n\ngo 1.26\n"

// smallSource is a service of the standard library alone: a program of about 8 MB.
func smallSource(marker string) string {
	return `package main

import (
	"fmt"
	"log"
	"net/http"
)

const marker = "` + marker + `"

func main() {
	http.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, marker, r.URL.Path)
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}
`
}

// largeSource is the same with the whole Kubernetes client in it: about 50 MB.
func largeSource(marker string) string {
	return `package main

import (
	"fmt"
	"html/template"
	"log"
	"net/http"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const marker = "` + marker + `"

var list = template.Must(template.New("pods").Parse("{{range .Items}}<p>{{.Name}} {{.Status.Phase}}{{end}}"))

func main() {
	http.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {})
	http.HandleFunc("/pods", func(w http.ResponseWriter, r *http.Request) {
		client, err := kubernetes.NewForConfig(&rest.Config{Host: r.FormValue("server")})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		pods, err := client.CoreV1().Pods("default").List(r.Context(), meta.ListOptions{})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		_ = list.Execute(w, pods)
	})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, marker, r.URL.Path)
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}
`
}

// edit writes a round's main.go.
func edit(source func(string) string) func(dir string, round int) error {
	return func(dir string, round int) error {
		return os.WriteFile(filepath.Join(dir, "main.go"), []byte(source(marker(round))), 0o644)
	}
}

// pageSource is a page of a static site.
func pageSource(marker string) string {
	return "<!doctype html>\n<title>bench</title>\n<link rel=stylesheet href=site.css>\n<h1>" + marker + "</h1>\n"
}

// site is a static site of a page and a stylesheet.
func site() map[string]string {
	return map[string]string{"index.html": pageSource(marker(0)), "site.css": "h1 { color: teal }\n"}
}

// smallFiles returns n files of a few hundred bytes below dir, a hundred to a
// directory.
func smallFiles(dir string, n int, marker string) map[string]string {
	files := make(map[string]string, n)
	for i := range n {
		path := fmt.Sprintf("%s/%03d/%05d.html", dir, i/100, i)
		files[path] = fmt.Sprintf("<p>%s %d</p>\n%s", marker, i, strings.Repeat("<p>the quick brown fox</p>\n", 10+i%7))
	}
	return files
}

// siteOf is a static site of n files.
func siteOf(n int) map[string]string {
	files := site()
	maps.Copy(files, smallFiles("pages", n-len(files), marker(0)))
	return files
}

// manySources is an app of half static sites and half Go services, with about
// files files in all.
func manySources(services, files int) map[string]string {
	all := map[string]string{
		"go.mod":                  "module example.com/many\n\ngo 1.26\n",
		"internal/serve/serve.go": serveSource,
	}
	half := services / 2
	for i := range half {
		for path, content := range siteOf(files / half) {
			all[fmt.Sprintf("sites/site-%02d/%s", i, path)] = content
		}
	}
	for i := range services - half {
		all[fmt.Sprintf("cmd/go-%02d/main.go", i)] = oneOfMany(marker(0))
	}
	return all
}

const serveSource = `// Package serve is what the services share.
package serve

import (
	"fmt"
	"net/http"
)

// Word answers every request with a word.
func Word(word string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, word) })
	return mux
}
`

// oneOfMany is the program of one of many services.
func oneOfMany(marker string) string {
	return `package main

import (
	"log"
	"net/http"

	"example.com/many/internal/serve"
)

func main() { log.Fatal(http.ListenAndServe(":8080", serve.Word("` + marker + `"))) }
`
}

// oneSite is an app of the first of the many sites alone.
func oneSite() map[string]string { return siteOf(2 * manyFiles / manyNumber) }

// oneService is an app of the first of the many Go services alone.
func oneService() map[string]string {
	return map[string]string{
		"go.mod":                  "module example.com/many\n\ngo 1.26\n",
		"internal/serve/serve.go": serveSource,
		"cmd/go-00/main.go":       oneOfMany(marker(0)),
	}
}
