package session

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/bightdev/bight/internal/app"
)

func TestTracebacksNameFilesWhereTheyAre(t *testing.T) {
	dir := t.TempDir()
	for path, text := range map[string]string{
		"go.mod": "module example.com/shop\n\ngo 1.26\n", "cart/main.go": "package main\n",
		"tools/go.mod": "module example.com/shop/tools\n\ngo 1.26\n", "tools/x.go": "package tools\n",
	} {
		file := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	a := &app.App{Dir: dir, Services: []*app.Service{
		{Name: "web", Build: app.Build{Kind: app.BuildStatic}},
		{Name: "cart", Build: app.Build{Kind: app.BuildGo, Module: "."}},
		{Name: "tools", Build: app.Build{Kind: app.BuildGo, Module: "tools"}},
	}}
	for line, want := range map[string]string{
		"\texample.com/shop/cart/main.go:12 +0x1d": "\t" + dir + "/cart/main.go:12 +0x1d",
		"\texample.com/shop/cart/main.go:12":       "\t" + dir + "/cart/main.go:12",
		"\texample.com/shop/tools/x.go:3 +0x1":     "\t" + dir + "/tools/x.go:3 +0x1",
		"\texample.com/shop/gone/main.go:12 +0x1d": "\texample.com/shop/gone/main.go:12 +0x1d",
		"\tnet/http/server.go:3340 +0x2":           "\tnet/http/server.go:3340 +0x2",
		"example.com/shop/cart/main.go:12":         "example.com/shop/cart/main.go:12",
		"\tsee example.com/shop/cart/main.go:12":   "\tsee example.com/shop/cart/main.go:12",
		"":                                         "",
	} {
		if got := local(a, line); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}
