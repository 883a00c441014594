//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/bightdev/bight/internal/kube"
)

// goesDirect runs a transfer through a pod of a target, whose session moves to the
// pod's own address, and back to the port-forward when that way falls silent, without
// the transfer's noticing more than a pause.
func (b *bay) goesDirect(target string) {
	via := podsVia(b)
	th := newThrottle(b.T, via.Host)
	via.Host = th.listener.Addr().String()
	s := b.background([]string{"BIGHT_PODS_VIA=" + via.String()}, "run", target, "-v", "--", b.program("tool"), "pour", "stock:7000")
	began := time.Now()
	s.says("state=moved direct=true")
	moved := time.Since(began)
	b.pours(s, 100)
	if strings.Contains(s.output.String(), "state=lost") {
		b.Errorf("the connection was lost on the way there:\n%s", s.output)
	}

	cut := time.Now()
	th.set(true)
	s.says("state=resumed direct=false")
	back := time.Since(cut)
	b.pours(s, 50)
	s.stdin.Close()
	s.says("all lines are back")
	<-s.ended
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		b.Errorf("the transfer ends with %d:\n%s", code, s.output)
	}
	b.Logf("direct %s after the start; %s after that way fell silent the port-forward has the transfer",
		moved.Round(time.Millisecond), back.Round(time.Millisecond))
}

var poured = regexp.MustCompile(`(?m)^MiB (\d+)$`)

// pours waits until a transfer has brought so many MiB more.
func (b *bay) pours(s *running, more int) {
	b.Helper()
	mib := func() (n int) {
		if all := poured.FindAllStringSubmatch(s.output.String(), -1); len(all) > 0 {
			n, _ = strconv.Atoi(all[len(all)-1][1])
		}
		return n
	}
	began, first := time.Now(), mib()
	b.eventually(fmt.Sprintf("%d MiB more have come", more), func() error {
		select {
		case <-s.ended:
			b.Fatalf("the transfer has ended:\n%s", s.output)
		default:
		}
		if n := mib() - first; n < more {
			return fmt.Errorf("%d have", n)
		}
		return nil
	})
	b.Logf("%d MiB in %s", mib()-first, time.Since(began).Round(time.Millisecond))
}

// podsVia is how the cluster says that addresses of pods are reached.
func podsVia(b *bay) *url.URL {
	b.Helper()
	config, err := clientcmd.LoadFromFile(os.Getenv("BIGHT_TEST_KUBECONFIG"))
	if err != nil {
		b.Fatal(err)
	}
	cluster := config.Clusters[config.Contexts[config.CurrentContext].Cluster]
	extension, ok := cluster.Extensions[kube.PodsViaExtension].(*runtime.Unknown)
	if !ok {
		b.Fatalf("the kubeconfig does not say how pods are reached: %+v", cluster.Extensions)
	}
	var said struct{ Via string }
	if err := json.Unmarshal(extension.Raw, &said); err != nil {
		b.Fatal(err)
	}
	via, err := url.Parse(said.Via)
	if err != nil {
		b.Fatal(err)
	}
	return via
}
