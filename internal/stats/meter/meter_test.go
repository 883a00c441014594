package meter

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/stats"
)

var noon = time.Date(2026, 5, 21, 12, 0, 0, 0, time.UTC)

// scrape returns the lines that are not 0, comments or buckets.
func scrape(t *testing.T, m *Meter, token string) (status int, lines []string) {
	t.Helper()
	server := httptest.NewServer(m.Handler(func(r *http.Request) (int, error) {
		if r.Header.Get("Authorization") != "Bearer good" {
			return http.StatusForbidden, errors.New("no")
		}
		return http.StatusOK, nil
	}))
	defer server.Close()
	r, err := http.NewRequest(http.MethodGet, server.URL+Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "#") && !strings.Contains(line, "_bucket{") && !strings.HasSuffix(line, " 0") {
			lines = append(lines, line)
		}
	}
	return answer.StatusCode, lines
}

// busy has counted one of each.
func busy() *Meter {
	m := New("v1", func() Load { return Load{Waiting: 3, Leased: 2, Workers: 1, Traces: 4, Lost: 5} })
	m.Lead(true)
	place := stats.Place{Tenant: "shop", App: "shop", Environment: "prod", Namespace: "shop-prod"}
	m.Count(stats.Event{Kind: stats.Change, Place: place, End: "deployed", Began: noon, Ended: noon.Add(time.Minute)})
	m.Count(stats.Event{Kind: stats.Deploy, Place: place, End: stats.Passed, Committed: noon, Ended: noon.Add(2 * time.Minute)})
	m.Count(stats.Event{Kind: stats.Deploy, Place: place, End: stats.Failed, Committed: noon, Ended: noon.Add(2 * time.Minute)})
	m.Count(stats.Event{
		Kind: stats.Release, Place: place, End: stats.Caught, Services: []string{"cart"}, Errors: 4, Verdict: "bad",
		Exposed: noon, Judged: noon.Add(3 * time.Second), Undoing: noon.Add(3 * time.Second), Ended: noon.Add(3250 * time.Millisecond),
	})
	m.Count(stats.Event{
		Kind: stats.Release, Place: place, End: stats.Promoted, Services: []string{"cart"}, Verdict: "collecting", Began: noon, Full: noon.Add(8 * time.Second),
	})
	m.Observed(100 * time.Millisecond)
	start, end := metav1.NewMicroTime(noon), metav1.NewMicroTime(noon.Add(5*time.Second))
	m.Steps(&v1alpha1.Change{Status: v1alpha1.ChangeStatus{Steps: []v1alpha1.Step{
		{Name: "build", State: v1alpha1.StepPassed, Started: &start, Ended: &end},
		{Name: "test", State: v1alpha1.StepPassed, Cached: "same inputs", Started: &start, Ended: &end},
		{Name: "deploy/prod", State: v1alpha1.StepFailed, Started: &start, Ended: &end},
	}}})
	return m
}

var (
	own = []string{
		`bight_build_info{version="v1"} 1`,
		`bight_change_duration_seconds_sum{phase="deployed"} 60`,
		`bight_change_duration_seconds_count{phase="deployed"} 1`,
		`bight_leader 1`,
		`bight_release_promotion_seconds_sum 8`,
		`bight_release_promotion_seconds_count 1`,
		`bight_release_undo_seconds_sum 0.25`,
		`bight_release_undo_seconds_count 1`,
		`bight_release_verdict_seconds_sum{verdict="bad"} 3`,
		`bight_release_verdict_seconds_count{verdict="bad"} 1`,
		`bight_release_weight_observed_seconds_sum 0.1`,
		`bight_release_weight_observed_seconds_count 1`,
		`bight_step_duration_seconds_sum{state="failed",step="deploy"} 5`,
		`bight_step_duration_seconds_count{state="failed",step="deploy"} 1`,
		`bight_step_duration_seconds_sum{state="passed",step="build"} 5`,
		`bight_step_duration_seconds_count{state="passed",step="build"} 1`,
		`bight_steps_total{cached="false",state="failed",step="deploy"} 1`,
		`bight_steps_total{cached="false",state="passed",step="build"} 1`,
		`bight_steps_total{cached="true",state="passed",step="test"} 1`,
		`bight_traces_lost_total 5`,
		`bight_traces_waiting 4`,
		`bight_worker_steps{state="leased"} 2`,
		`bight_worker_steps{state="waiting"} 3`,
		`bight_workers 1`,
	}
	tenants = []string{
		`bight_change_lead_time_seconds_sum{app="shop",environment="prod",namespace="shop"} 120`,
		`bight_change_lead_time_seconds_count{app="shop",environment="prod",namespace="shop"} 1`,
		`bight_changes_total{app="shop",namespace="shop",phase="deployed"} 1`,
		`bight_deployments_total{app="shop",end="failed",environment="prod",namespace="shop"} 1`,
		`bight_deployments_total{app="shop",end="passed",environment="prod",namespace="shop"} 1`,
		`bight_release_failed_requests_total{namespace="shop-prod",service="cart"} 4`,
		`bight_releases_total{end="caught",namespace="shop-prod",service="cart"} 1`,
		`bight_releases_total{end="promoted",namespace="shop-prod",service="cart"} 1`,
	}
)

func TestWithoutACredentialNoTenantIsNamed(t *testing.T) {
	status, got := scrape(t, busy(), "")
	if d := cmp.Diff(own, got); d != "" || status != http.StatusOK {
		t.Errorf("status %d (-want +got):\n%s", status, d)
	}
}

func TestWhoMaySeesAll(t *testing.T) {
	m := busy()
	status, got := scrape(t, m, "good")
	if status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	seen := map[string]bool{}
	for _, line := range got {
		seen[line] = true
	}
	for _, want := range append(own, tenants...) {
		if !seen[want] {
			t.Errorf("%s is not there", want)
		}
	}
	if len(got) != len(own)+len(tenants) {
		t.Errorf("%d lines, want %d:\n%s", len(got), len(own)+len(tenants), strings.Join(got, "\n"))
	}
	if status, got := scrape(t, m, "stolen"); status != http.StatusForbidden || len(got) > 1 {
		t.Errorf("status %d: %v", status, got)
	}
}
