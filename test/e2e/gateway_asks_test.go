//go:build e2e && gateway

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/bightdev/bight/internal/release/gateway"
)

// request is one that is made through a gateway: METHOD /path?query, and headers as name and value.
type request struct {
	line    string
	headers []string
}

func (r request) String() string {
	return strings.TrimSpace(fmt.Sprint(r.line, " ", strings.Join(r.headers, "=")))
}

// answeredBy makes a request, and says who answers: a version of till, or the other service.
func (b *bay) answeredBy(url string, r request) (string, error) {
	method, path, _ := strings.Cut(r.line, " ")
	q, err := http.NewRequest(method, strings.TrimSuffix(url, "/")+path, nil)
	if err != nil {
		return "", err
	}
	for i := 0; i+1 < len(r.headers); i += 2 {
		q.Header.Set(r.headers[i], r.headers[i+1])
	}
	response, err := b.client(false, false).Do(q)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return "", err
	case response.StatusCode != http.StatusOK:
		return "", fmt.Errorf("%s", response.Status)
	case strings.Contains(string(body), " stock-"): // the pod's name
		return "stock", nil
	}
	return response.Header.Get("X-Who"), nil
}

// testGatewayAsks gives a version the requests of a method, with a parameter, of an exact path, and of all that at once:
// these and no others reach it.
func testGatewayAsks(b *bay) {
	w := viaRoute(b)
	stable := w.stable(b)
	w.begin(b, "asked", fmt.Sprintf(hold, 0), "Held")
	w.load(b)
	line := func(all ...string) (out []request) {
		for _, l := range all {
			out = append(out, request{line: l})
		}
		return out
	}
	ada := []string{"X-Team", "ada"}
	for _, tt := range []struct {
		order        []string
		its, stables []request
		others       []request // which are the other service's
	}{
		{
			order:   []string{"--method", "PUT,DELETE"},
			its:     line("PUT /", "DELETE /any/where", "PUT /new?look=new", "PUT /stocks"),
			stables: line("GET /", "POST /", "HEAD /", "PATCH /any/where", "GET /stocks"),
			others:  line("PUT /stock", "DELETE /stock/any", "GET /stock"),
		},
		{
			order:   []string{"--query", "look=new"},
			its:     line("GET /?look=new", "POST /any/where?page=2&look=new", "HEAD /?look=new"),
			stables: line("GET /", "GET /?look=newer", "GET /?look=", "GET /?Look=new", "PUT /", "GET /look=new"),
			others:  line("GET /stock?look=new"),
		},
		{
			order:   []string{"--path", "/new", "--exact"},
			its:     line("GET /new", "POST /new?page=2", "HEAD /new"),
			stables: line("GET /", "GET /new/", "GET /new/er", "GET /newer", "GET /any/new", "GET /NEW"),
			others:  line("GET /stock/new"),
		},
		{
			order: []string{"--method", "GET", "--query", "look=new", "--path", "/new", "--exact", "--header", "x-team=ada"},
			its:   []request{{"GET /new?look=new", ada}},
			stables: []request{
				{"POST /new?look=new", ada}, {"GET /new", ada}, {"GET /new/er?look=new", ada}, {"GET /?look=new", ada},
				{"GET /new?look=new", nil}, {"GET /new?look=new", []string{"X-Team", "bob"}}, {"GET /", ada},
			},
			others: []request{{"GET /stock/new?look=new", ada}},
		},
	} {
		b.order(append([]string{"route", tillNamed, "--to", "canary"}, tt.order...)...)
		for _, r := range tt.its {
			b.eventually(fmt.Sprintf("%q: %s reaches the version", tt.order, r), func() error {
				who, err := b.answeredBy(w.url, r)
				if err == nil && who != "asked" {
					err = fmt.Errorf("%s answers", who)
				}
				return err
			})
		}
		for range 3 {
			for want, all := range map[string][]request{"asked": tt.its, stable: tt.stables, "stock": tt.others} {
				for _, r := range all {
					if who, err := b.answeredBy(w.url, r); err != nil || who != want {
						b.Errorf("%q: %s is answered by %s, %v; want %s", tt.order, r, who, err, want)
					}
				}
			}
		}
		b.order("route", tillNamed, "--clear")
		b.eventually("no request reaches the version any more", func() error {
			for _, r := range tt.its {
				if who, err := b.answeredBy(w.url, r); err != nil || who != stable {
					return fmt.Errorf("%s is answered by %s, %v", r, who, err)
				}
			}
			return nil
		})
	}
	b.order("undo", tillNamed)
	b.reaches("Undone")
	w.over(b)
	b.unharmed("orders by method, parameter and path")
}

// testGatewayNodes shares the requests of pods on two nodes, and then of a version whose pods are on a node that has none
// of stable: an undo that no gateway knows of goes from one to the other, and errors there convict.
func testGatewayNodes(b *bay) {
	near, far := b.twoNodes()
	w := viaRoute(b)
	stable := w.stable(b)
	b.spread(4, everyNode)
	on := func(hash string) map[string]int {
		nodes := map[string]int{}
		for _, p := range b.tillPods() {
			if p.Labels["pod-template-hash"] == hash {
				nodes[p.Spec.NodeName]++
			}
		}
		return nodes
	}
	r := w.begin(b, "far", fmt.Sprintf(hold, 50), "Held")
	w.load(b) // not sooner: the gateway has to hear of stable's new pods, of which nobody tells it in time
	w.part(b, "far", 70, 130)
	for what, hash := range map[string]string{"stable": r.Status.Stable.Hash, "the version": r.Status.Canary.Hash} {
		if nodes := on(hash); nodes[near] == 0 || nodes[far] == 0 {
			b.Fatalf("the pods of %s are on %v, and not on both nodes", what, nodes)
		}
	}
	b.order("weight", tillNamed, "25")
	w.part(b, "far", 25, 75)
	b.undoneUnheard(w, stable, "on both nodes")

	if err := schedulable(far, false); err != nil {
		b.Fatal(err)
	}
	b.spread(2, "null")
	b.apart(near, far, func() { r = w.begin(b, "apart", fmt.Sprintf(hold, 50), "Held") })
	w.load(b)
	w.part(b, "apart", 70, 130)
	if of, version := on(r.Status.Stable.Hash), on(r.Status.Canary.Hash); of[far] > 0 || version[near] > 0 {
		b.Fatalf("stable's pods are on %v and the version's on %v: they are to be apart", of, version)
	}
	b.undoneUnheard(w, stable, "from a node without a pod of stable")
	w.load(b)
	b.apart(near, far, func() {
		r = w.begin(b, "bad", "steps: [{weight: 10, proven: true}]\nkeep: 1s\n", "Undone", "--env", "BROKEN=yes")
	})
	var got counts
	b.load("/stop", &got)
	b.Logf("%s; %d requests, %d failed", r.Status.Message, got.Requests, got.Failed)
	if !r.Status.Convicted || r.Status.Verdict == nil || r.Status.Verdict.Is != "bad" || got.Failed == 0 || got.Failed > 150 {
		b.Errorf("convicted: %v, verdict %+v, %d errors", r.Status.Convicted, r.Status.Verdict, got.Failed)
	}
	w.only(b, stable)
	w.over(b)
	b.spread(3, "null")
}

// apart has pods come to the far node alone while a function runs.
func (b *bay) apart(near, far string, run func()) {
	b.Helper()
	move := func(to, from string) {
		b.Helper()
		if err := errors.Join(schedulable(to, true), schedulable(from, false)); err != nil {
			b.Fatal(err)
		}
	}
	defer move(near, far)
	move(far, near)
	run()
}

// undoneUnheard undoes what is Held while nobody tells the gateway: the doors of the version's own pods do.
func (b *bay) undoneUnheard(w way, stable, what string) {
	b.Helper()
	b.controllers(0)
	began := time.Now()
	said := b.order("undo", tillNamed)
	b.Logf("undone %s in %s: %s", what, time.Since(began).Round(time.Millisecond), strings.TrimSpace(said))
	w.only(b, stable)
	if !strings.Contains(said, "its own pods hand every request to the version before") || !strings.Contains(fmt.Sprint(b.route().Object["spec"]), "till-canary") {
		b.Errorf("the gateway is told already, or its pods do not obey: %s", said)
	}
	b.controllers(1)
	b.reaches("Undone")
	w.over(b)
	b.unharmed("an undo " + what)
}

// copiesGateway is a Gateway that can copy requests, which Traefik's can't.
const copiesGateway = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: copies}
spec:
  gatewayClassName: doors
  listeners: [{name: web, port: 8002, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: till-copies}
spec:
  parentRefs: [{name: copies}]
  rules: [{backendRefs: [{name: till, port: 8080}]}]
`

// testGatewayMirror has a gateway copy requests to a version: nobody who asks notices, and one that fails what is copied is
// convicted by that.
func testGatewayMirror(b *bay) {
	b.write("copies.yaml", copiesGateway)
	if out, err := b.kubectl("apply", "-n", b.namespace, "-f", b.dir+"/copies.yaml"); err != nil {
		b.Fatal(out, err)
	}
	b.Cleanup(func() {
		if out, err := b.kubectl("delete", "-n", b.namespace, "-f", b.dir+"/copies.yaml"); err != nil {
			b.Error(out, err)
		}
	})
	d, err := b.cluster().Dynamic()
	if err != nil {
		b.Fatal(err)
	}
	was := viaRoute(b)
	w := way{args: []string{"--route", "till-copies"}, lags: true, unchanged: was.unchanged}
	b.eventually("the gateway leads to till", func() error {
		g, err := d.Resource(gateway.Resource("Gateway")).Namespace(b.namespace).Get(context(), "copies", meta.GetOptions{})
		if err != nil {
			return err
		}
		addresses, _, _ := unstructured.NestedSlice(g.Object, "status", "addresses")
		if len(addresses) == 0 {
			return fmt.Errorf("it has no address: %v", g.Object["status"])
		}
		w.url = fmt.Sprintf("http://%v:8002/", addresses[0].(map[string]any)["value"])
		_, err = b.answeredBy(w.url, request{line: "GET /"})
		return err
	})
	stable := w.stable(b)

	w.load(b)
	w.begin(b, "shadow", "strategy: Mirror\nshare: 50\nfor: 2s\nkeep: 1s\n", "Held")
	n := 0
	b.eventually("it has had a hundred copies", func() error {
		if n = b.requestsOf("shadow"); n < 100 {
			return fmt.Errorf("it has had %d", n)
		}
		return nil
	})
	w.only(b, stable)
	if said := b.order("status", tillNamed); !strings.Contains(said, "1 of 1 gateway obey") {
		b.Errorf("status says\n%s", said)
	}
	b.order("undo", tillNamed)
	b.reaches("Undone")
	w.over(b)
	b.unharmed("copies, and an undo")

	w.load(b)
	r := w.begin(b, "ghost", "strategy: Mirror\nshare: 50\nkeep: 1s\n", "Undone", "--env", "BROKEN=yes")
	b.Logf("%s", r.Status.Message)
	if !r.Status.Convicted || r.Status.Verdict == nil || r.Status.Verdict.Is != "bad" {
		b.Errorf("convicted: %v, verdict %+v", r.Status.Convicted, r.Status.Verdict)
	}
	w.over(b)
	b.unharmed("a version that fails what is copied to it")
	w.only(b, stable)
}

// requestsOf is how many requests the pods of a version have had.
func (b *bay) requestsOf(version string) (n int) {
	b.Helper()
	for _, p := range b.tillPods() {
		for _, e := range p.Spec.Containers[0].Env {
			if (e != core.EnvVar{Name: "WHO", Value: version}) {
				continue
			}
			if all, err := counters(b.client(false, false), "http://"+p.Status.PodIP+":8080"); err == nil {
				n += all["requests"]
			}
		}
	}
	return n
}
