package control

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/release/config"
	"github.com/bightdev/bight/internal/release/evidence"
)

func TestConfigurationStaysAsLongAsATemplateRefersToIt(t *testing.T) {
	now := time.Now()
	old := metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}
	ending := old
	ending.DeletionTimestamp = &metav1.Time{Time: now}
	all := map[config.Ref]metav1.ObjectMeta{
		{Kind: config.ConfigMap, Name: "used"}:   old,
		{Kind: config.ConfigMap, Name: "unused"}: old,
		{Kind: config.Secret, Name: "used"}:      old,
		{Kind: config.ConfigMap, Name: "new"}:    {CreationTimestamp: metav1.NewTime(now.Add(-time.Second))},
		{Kind: config.ConfigMap, Name: "ending"}: ending,
	}
	templates := []map[string]any{{}, {"spec": map[string]any{"volumes": []any{map[string]any{"configMap": map[string]any{"name": "used"}}}}}}
	want := []config.Ref{{Kind: config.ConfigMap, Name: "unused"}, {Kind: config.Secret, Name: "used"}}
	if diff := cmp.Diff(want, unused(all, templates, now)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNothingSecretIsToldOfALine(t *testing.T) {
	for line, want := range map[string]string{
		"timeout: 5s":       "timeout: 5s",
		"  password: abc":   "  password: " + evidence.Hidden,
		"DB_PASSWORD=abc":   "DB_PASSWORD= " + evidence.Hidden,
		`"apiKey": "abc",`:  `"apiKey": ` + evidence.Hidden,
		"password:":         "password:",
		"# how tokens work": "# how tokens work",
	} {
		if got := hideLine(&evidence.Rules{}, line); got != want {
			t.Errorf("of %q is told %q, want %q", line, got, want)
		}
	}
}
