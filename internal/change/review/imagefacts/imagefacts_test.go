package imagefacts

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func image(user string, layers ...int64) Image {
	m := &v1.Manifest{Config: v1.Descriptor{Size: 1000}}
	for _, n := range layers {
		m.Layers = append(m.Layers, v1.Descriptor{Size: n})
	}
	return Image{Service: "cart", Manifest: m, Config: &v1.ConfigFile{Config: v1.Config{User: user}}, SBOM: true, File: "cart/main.go", Line: 4}
}

func TestFindings(t *testing.T) {
	with := func(img Image, f func(*Image)) Image { f(&img); return img }
	for _, tt := range []struct {
		name string
		img  Image
		want []string
	}{
		{"good", image("65532:65532", 1<<20), nil},
		{"no user", image(""), []string{"warning runs-as-root 4"}},
		{"root", image("root:root"), []string{"warning runs-as-root 4"}},
		{"zero", image("000:10"), []string{"warning runs-as-root 4"}},
		{"named", image("app"), nil},
		{"base without digest", with(image("1"), func(i *Image) { i.Manifest.Annotations = map[string]string{baseName: "alpine"} }), []string{"warning base-without-digest 4"}},
		{"base with digest", with(image("1"), func(i *Image) {
			i.Manifest.Annotations = map[string]string{baseName: "alpine", baseDigest: "sha256:1"}
		}), nil},
		{"references", with(image("1"), func(i *Image) {
			i.From = []Reference{{"golang:1.26", 1}, {"alpine@sha256:abc", 7}, {"scratch", 9}, {"reg:5000/x", 11}}
		}), []string{"warning base-not-pinned 1", "warning base-not-pinned 11"}},
		{"grows", with(image("1", 30<<20), func(i *Image) { i.Base = image("1", 20<<20).Manifest }), []string{"warning grows 4"}},
		{"grows a little", with(image("1", 21<<20), func(i *Image) { i.Base = image("1", 20<<20).Manifest }), nil},
		{"grows from little", with(image("1", 3<<20), func(i *Image) { i.Base = image("1", 1<<20).Manifest }), nil},
		{"shrinks", with(image("1", 3<<20), func(i *Image) { i.Base = image("1", 100<<20).Manifest }), nil},
		{"no sbom", with(image("1"), func(i *Image) { i.SBOM = false }), []string{"note no-sbom 4"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, f := range Findings(tt.img) {
				got = append(got, fmt.Sprintf("%s %s %d", f.Severity, f.Rule, f.Line))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestGrowthIsToldInNumbers(t *testing.T) {
	img := image("1", 30<<20)
	img.Base = image("1", 20<<20).Manifest
	want := "the image grows by 10 MiB (49 %), from 20 MiB to 30 MiB"
	if got := Findings(img)[0].Message; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
