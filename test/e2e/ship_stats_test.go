//go:build e2e

package e2e

import (
	stdcontext "context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	authentication "k8s.io/api/authentication/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/stats"
)

// testShipStats looks at what is known of the releases before, which the record outlives the
// controller with.
func testShipStats(d *dock) {
	check := func() error {
		row, err := d.stats()
		if err != nil {
			return err
		}
		now := row.Now
		switch r := now.Releases; {
		case r == nil || r.Promoted != 3 || r.Caught != 1 || r.Stopped != 1 || r.Fallen != 0:
			return fmt.Errorf("releases: %+v", r)
		case r.Errors < 1 || r.Errors > 20 || r.Undo == nil || r.Undo.Median > 5 || r.Promotion == nil || r.Verdict == nil:
			return fmt.Errorf("of releases: %+v", r)
		case now.Deployments != 6 || now.Failed == nil || *now.Failed != stats.Share{Count: 1, Of: 6}:
			return fmt.Errorf("%d deployments, %v failed", now.Deployments, now.Failed)
		case now.Recovery == nil || now.Recovery.Count != 1 || now.Open != 0:
			return fmt.Errorf("recovered within %+v, %d not", now.Recovery, now.Open)
		case now.Lead == nil || now.Lead.Count < 3 || now.Lead.Median <= 0 || now.Lead.Median > 600:
			return fmt.Errorf("lead time %+v", now.Lead)
		case now.Changes["deployed"] < 5 || now.Changes["refused"]+now.Changes["failed"] != 3:
			return fmt.Errorf("changes %v", now.Changes)
		case row.Before.Deployments != 0 || row.Before.Lead != nil || row.Before.Failed != nil:
			return fmt.Errorf("before: %+v", row.Before)
		}
		return nil
	}
	d.eventually("bight stats tells what has happened", check)
	if out, errs, code := d.bight("stats", "-n", d.namespace); code != 0 || !strings.Contains(out, "caught by canary") || !strings.Contains(out, "1 of 5") {
		d.Errorf("bight stats: exit code %d\n%s%s", code, out, errs)
	}
	counted := d.metrics(http.StatusOK, "")
	for _, want := range []string{
		"bight_leader 1", `bight_release_verdict_seconds_count{verdict="bad"} 1`, "bight_release_promotion_seconds_count 3", "bight_release_undo_seconds_count 2",
		`bight_change_duration_seconds_count{phase="deployed"}`, `bight_steps_total{cached="false",state="passed",step="merge"}`, "workqueue_depth{", "go_goroutines ",
	} {
		if !strings.Contains(counted, want) {
			d.Errorf("metrics lack %s:\n%s", want, counted)
		}
	}
	if strings.Contains(counted, d.namespace) {
		d.Errorf("metrics name %s to anybody", d.namespace)
	}
	d.mayScrape(func(token string) {
		for _, want := range []string{
			fmt.Sprintf(`bight_releases_total{end="caught",namespace=%q,service="cart"} 1`, d.prod),
			fmt.Sprintf(`bight_releases_total{end="promoted",namespace=%q,service="cart"} 3`, d.prod),
			fmt.Sprintf(`bight_change_lead_time_seconds_count{app=%q,environment="prod",namespace=%[1]q}`, d.namespace),
		} {
			if counted := d.metrics(http.StatusOK, token); !strings.Contains(counted, want) {
				d.Errorf("metrics lack %s:\n%s", want, counted)
			}
		}
	})

	// Another controller goes on from the same record, though the objects are gone, and counts
	// nothing of it again.
	if out, err := d.kubectl("delete", "releases.bight.dev", "--all", "-n", d.prod); err != nil {
		d.Fatal(out, err)
	}
	pod := d.leader()
	was, err := client.CoreV1().Pods("bight-system").Get(context(), pod, meta.GetOptions{})
	if err != nil {
		d.Fatal(err)
	}
	if err := client.CoreV1().Pods("bight-system").Delete(context(), pod, deleteNow()); err != nil {
		d.Fatal(err)
	}
	d.eventually("another controller is there", func() error {
		is, err := client.CoreV1().Pods("bight-system").Get(context(), pod, meta.GetOptions{})
		if err == nil && is.UID == was.UID {
			err = fmt.Errorf("it is the same one")
		}
		return err
	})
	d.leader()
	d.eventually("it tells the same", check)
	if counted := d.metrics(http.StatusOK, ""); strings.Contains(counted, "bight_change_duration_seconds_count") || !strings.Contains(counted, "bight_release_undo_seconds_count 0") {
		d.Errorf("what was counted is counted again:\n%s", counted)
	}
}

// stats is what bight stats says of the environment.
func (d *dock) stats() (stats.Row, error) {
	d.Helper()
	out, errs, code := d.bight("stats", "-n", d.namespace, "-o", "json")
	var r stats.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		return stats.Row{}, fmt.Errorf("exit code %d: %w\n%s%s", code, err, out, errs)
	}
	if len(r.Rows) == 0 || r.Rows[0].Namespace != d.prod || r.Rows[0].Service != "" {
		return stats.Row{}, fmt.Errorf("it has %+v", r.Rows)
	}
	return r.Rows[0], nil
}

// metrics are what the controller that acts serves.
func (d *dock) metrics(want int, token string) string {
	d.Helper()
	leader, cluster := d.leader(), kube.New(config, "", "")
	c := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx stdcontext.Context, _, _ string) (net.Conn, error) {
		return cluster.DialPod(ctx, "bight-system", leader, 8081)
	}}}
	r, err := http.NewRequest(http.MethodGet, "http://controller/metrics", nil)
	if err != nil {
		d.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := c.Do(r)
	if err != nil {
		d.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != want {
		d.Fatalf("metrics: %s, want %d: %v\n%s", answer.Status, want, err, b)
	}
	return string(b)
}

// mayScrape gives a service account the right to scrape, for as long as do takes. Before, it
// has none.
func (d *dock) mayScrape(do func(token string)) {
	d.Helper()
	request := &authentication.TokenRequest{}
	request, err := client.CoreV1().ServiceAccounts(d.prod).CreateToken(context(), "cart", request, meta.CreateOptions{})
	if err != nil {
		d.Fatal(err)
	}
	token := request.Status.Token
	d.metrics(http.StatusForbidden, token)
	name := d.namespace + "-scrape"
	for _, args := range [][]string{
		{"create", "clusterrole", name, "--non-resource-url=/metrics", "--verb=get"},
		{"create", "clusterrolebinding", name, "--clusterrole=" + name, "--serviceaccount=" + d.prod + ":cart"},
	} {
		if out, err := d.kubectl(args...); err != nil {
			d.Fatal(out, err)
		}
		d.Cleanup(func() { _, _ = d.kubectl("delete", args[1], name) })
	}
	d.eventually("the right is known", func() error {
		out, err := d.kubectl("auth", "can-i", "get", "/metrics", "--as=system:serviceaccount:"+d.prod+":cart")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	do(token)
}
