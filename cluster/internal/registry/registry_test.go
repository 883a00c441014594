package registry

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func TestWhatWasPushedOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	image, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	want, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}

	first := httptest.NewServer(Handler(t.Context(), dir))
	if err := remote.Write(reference(t, first), image); err != nil {
		t.Fatal(err)
	}
	first.Close()

	second := httptest.NewServer(Handler(t.Context(), dir))
	defer second.Close()
	pulled, err := remote.Image(reference(t, second))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := pulled.Digest(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func reference(t *testing.T, s *httptest.Server) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(strings.TrimPrefix(s.URL, "http://")+"/app/service:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}
