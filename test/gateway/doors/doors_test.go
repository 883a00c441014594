package doors

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/bightdev/bight/internal/steer"
)

func TestSharesComeToAll(t *testing.T) {
	for _, tt := range []struct {
		weights []int32
		want    []steer.Weight
	}{
		{[]int32{70, 30, 0}, []steer.Weight{7000, 3000, 0}},
		{[]int32{1, 1, 1}, []steer.Weight{3334, 3333, 3333}},
		{[]int32{0, 5}, []steer.Weight{0, 10000}},
		{[]int32{1, 2, 4}, []steer.Weight{1429, 2857, 5714}},
		{[]int32{1000000, 1000000}, []steer.Weight{5000, 5000}},
	} {
		if got := Shares(tt.weights); !slices.Equal(got, tt.want) {
			t.Errorf("%v: %v, want %v", tt.weights, got, tt.want)
		}
	}
}

// lab is a world with some backends, whose pods are servers of the test.
type lab struct {
	*testing.T
	world World
	said  map[string]*heard // by backend
	asked chan struct{}     // something was, for each
	front Front
	url   string
}

// heard is what a backend was asked.
type heard struct {
	sync.Mutex
	requests []string
}

func newLab(t *testing.T, backends ...string) *lab {
	l := &lab{T: t, said: map[string]*heard{}, asked: make(chan struct{}, 1000)}
	ctx, cancel := context.WithCancel(t.Context())
	pods := &Pods{Log: slog.New(slog.DiscardHandler)}
	pods.Open(ctx)
	l.front = Front{Pods: pods, Log: pods.Log}
	l.front.Open(ctx)
	var serving sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		serving.Wait()
		l.front.Wait()
		pods.Wait()
	})
	for _, name := range backends {
		ln := l.listen()
		h := &heard{}
		l.said[name] = h
		server := serverOf(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.Lock()
			h.requests = append(h.requests, r.Method+" "+r.RequestURI)
			h.Unlock()
			select {
			case l.asked <- struct{}{}:
			default: // nobody waits for so many
			}
			w.Header().Set("Trailer", "Sum")
			fmt.Fprintf(w, "%s color=%s carried=%s", name, r.Header.Get("Color"), r.Header.Get(steer.Carried))
			w.Header().Set("Sum", "7")
		}))
		serving.Go(func() { _ = server.Serve(ln) })
		context.AfterFunc(ctx, func() { _ = server.Close() })
		l.backend(name, ln.Addr().(*net.TCPAddr).Port)
	}
	ln := l.listen()
	l.url = "http://" + ln.Addr().String()
	serving.Go(func() {
		if err := l.front.Serve(ln); err != nil {
			t.Error(err)
		}
	})
	return l
}

func (l *lab) listen() net.Listener {
	ln, err := listen()
	if err != nil {
		l.Fatal(err)
	}
	return ln
}

// backend adds a Service with one pod, at a port of this machine.
func (l *lab) backend(name string, port int) {
	at := metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}}
	l.world.Services = append(l.world.Services, corev1.Service{ObjectMeta: at, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "web", Port: 80}}}})
	l.world.Endpoints = append(l.world.Endpoints, discoveryv1.EndpointSlice{
		ObjectMeta: at, Ports: []discoveryv1.EndpointPort{{Name: new("web"), Port: new(int32(port))}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"127.0.0.1"}}},
	})
}

// obey has the doors obey routes, each the rules of one.
func (l *lab) obey(specs ...string) {
	l.Helper()
	var all []Rule
	for i, text := range specs {
		r := &gatewayv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprint("route", i)}}
		if err := yaml.UnmarshalStrict([]byte(text), &r.Spec); err != nil {
			l.Fatal(err)
		}
		one := route{id: routeOf("http", &r.ObjectMeta), at: &r.ObjectMeta}
		if err := l.world.httpRules(&one, r); err != nil {
			l.Fatal(err)
		}
		all = append(all, one.rules...)
	}
	if err := l.front.Obey(Compile(all)); err != nil {
		l.Fatal(err)
	}
}

// client speaks HTTP/1 or HTTP/2.
func (l *lab) client(second bool) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetHTTP1(!second)
	tr.Protocols.SetUnencryptedHTTP2(second)
	l.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

// ask sends a request, "GET /x Name=value …", and tells the answer.
func (l *lab) ask(hc *http.Client, request string) string {
	l.Helper()
	words := strings.Fields(request)
	req, err := http.NewRequest(words[0], l.url+words[1], nil)
	if err != nil {
		l.Fatal(err)
	}
	for _, w := range words[2:] {
		name, value, _ := strings.Cut(w, "=")
		if req.Header.Add(name, value); name == "Host" {
			req.Host = value
		}
	}
	resp, err := hc.Do(req)
	if err != nil {
		l.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		l.Fatal(err)
	}
	if status := resp.Header.Get("Grpc-Status"); status != "" {
		return "call " + status
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Sprint(resp.StatusCode)
	}
	if resp.Trailer.Get("Sum") != "7" {
		l.Errorf("%s: trailers %v", request, resp.Trailer)
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(b), " carried="), " color=")
}

const rules = `
rules:
- {backendRefs: [{name: one, port: 80, weight: 70}, {name: two, port: 80, weight: 30}, {name: three, port: 80, weight: 0}]}
- {matches: [{path: {value: /a}}], backendRefs: [{name: one, port: 80}]}
- {matches: [{path: {value: /a/b}}], backendRefs: [{name: two, port: 80}]}
- {matches: [{path: {type: Exact, value: /a/b}}], backendRefs: [{name: three, port: 80}]}
- {matches: [{method: PUT}], backendRefs: [{name: one, port: 80}]}
- {matches: [{method: PUT, headers: [{name: color, value: red}]}], backendRefs: [{name: two, port: 80}]}
- {matches: [{headers: [{name: color, value: red}]}, {queryParams: [{name: look, value: new}]}], backendRefs: [{name: three, port: 80}]}
- {matches: [{path: {value: /gone}}], backendRefs: [{name: four, port: 80}]}
- {matches: [{path: {value: /half}}], backendRefs: [{name: four, port: 80}, {name: one, port: 80}]}
- {matches: [{path: {value: /none}}], backendRefs: [{name: one, port: 80, weight: 0}]}
- {matches: [{path: {value: /empty}}], backendRefs: [{name: empty, port: 80}]}
- matches: [{path: {value: /copied}}]
  filters:
  - {type: RequestMirror, requestMirror: {backendRef: {name: one, port: 80}}}
  - {type: RequestMirror, requestMirror: {backendRef: {name: three, port: 80}, percent: 25}}
  - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: color, value: blue}]}}
  backendRefs: [{name: one, port: 80}]
`

func TestTheDoorsObeyRoutes(t *testing.T) {
	for name, second := range map[string]bool{"HTTP1": false, "HTTP2": true} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, "one", "two", "three")
			l.world.Services = append(l.world.Services, corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "empty"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
			})
			l.obey(rules)
			hc := l.client(second)
			for request, want := range map[string]string{
				"GET /a":                    "one",
				"GET /a/c":                  "one",
				"GET /a/b":                  "three",
				"GET /a/b/c":                "two",
				"PUT /x":                    "one",
				"PUT /x Color=red":          "two color=red",
				"GET /x Color=red":          "three color=red",
				"GET /x?look=new":           "three",
				"GET /a Color=red":          "one color=red", // paths come first
				"GET /a Bight-Carried=1":    "404",           // whoever says so is not asked where
				"GET /gone":                 "500",
				"GET /none":                 "500",
				"GET /empty":                "503",
				"PUT /copied?a=%zz Color=x": "one color=blue",
			} {
				if got := l.ask(hc, request); got != want {
					t.Errorf("%s: %s, want %s", request, got, want)
				}
			}
			got := map[string]int{}
			for range 200 {
				got[l.ask(hc, "GET /shared")]++
				got["half "+l.ask(hc, "GET /half")]++
			}
			if d := cmp.Diff(map[string]int{"one": 140, "two": 60, "half one": 100, "half 500": 100}, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestCopiesAreMade(t *testing.T) {
	for name, second := range map[string]bool{"HTTP1": false, "HTTP2": true} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, "one", "two", "three")
			l.obey(rules)
			hc := l.client(second)
			for i := range 40 {
				l.ask(hc, fmt.Sprint("GET /copied?", i))
			}
			want := map[string]int{"one": 80, "two": 0, "three": 10} // the original and a copy; a quarter
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for range 90 { // copies are nobody's answers
				select {
				case <-l.asked:
				case <-ctx.Done():
				}
			}
			got := map[string]int{}
			for name, h := range l.said {
				h.Lock()
				got[name] = len(h.requests)
				h.Unlock()
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// What no route is about is nobody's, and a balance outlives what is changed elsewhere.
func TestRoutesComeAndGo(t *testing.T) {
	l := newLab(t, "one", "two")
	hc := l.client(false)
	if got := l.ask(hc, "GET /"); got != "404" {
		t.Errorf("without routes: %s", got)
	}
	if got := l.ask(l.client(true), "POST /a.B/C Content-Type=application/grpc"); got != "call 12" {
		t.Errorf("a call without routes: %s", got)
	}
	const even = `rules: [{backendRefs: [{name: one, port: 80}, {name: two, port: 80}]}]`
	got := map[string]int{}
	for i := range 40 {
		l.obey(even, fmt.Sprintf(`rules: [{matches: [{path: {value: /%d}}], backendRefs: [{name: two, port: 80}]}]`, i))
		got[l.ask(hc, "GET /")]++
	}
	if d := cmp.Diff(map[string]int{"one": 20, "two": 20}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	l.obey(`
hostnames: [a.example]
rules: [{backendRefs: [{name: one, port: 80}]}]`, `
hostnames: [b.example]
rules: [{backendRefs: [{name: two, port: 80}]}]`)
	for host, want := range map[string]string{"a.example": "one", "b.example": "two", "b.example:8080": "two", "c.example": "404"} {
		if got := l.ask(hc, "GET / Host="+host); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}

// A rule that copies passes one door more. Whoever is on the way when it begins or ends to copy is answered.
func TestNobodyIsLostWhereCopiesBeginAndEnd(t *testing.T) {
	l := newLab(t, "one", "two")
	const plain = `rules: [{backendRefs: [{name: one, port: 80}]}]`
	const copied = `rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: two, port: 80}}}], backendRefs: [{name: one, port: 80}]}]`
	l.obey(plain)
	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	for range 8 {
		hc := l.client(false)
		asking.Go(func() {
			for ctx.Err() == nil {
				response, err := hc.Get(l.url)
				if err != nil {
					t.Error(err)
					continue
				}
				body, err := io.ReadAll(response.Body)
				_ = response.Body.Close()
				if err != nil || response.StatusCode != http.StatusOK {
					t.Errorf("%s %s, %v", response.Status, body, err)
				}
			}
		})
	}
	for i := range 40 {
		l.obey([]string{copied, plain}[i%2])
		for range 20 {
			<-l.asked
		}
	}
	stop()
	asking.Wait()
}

// Of two rules that ask for the same the older route's counts, and what a door can't do
// is refused and said.
func TestWhatIsSaid(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	route := func(name string, age time.Duration, spec string) gatewayv1.HTTPRoute {
		r := gatewayv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, CreationTimestamp: metav1.NewTime(at.Add(-age)), Generation: 3}}
		if err := yaml.UnmarshalStrict([]byte(spec), &r.Spec); err != nil {
			t.Fatal(err)
		}
		return r
	}
	l := &lab{T: t}
	l.backend("one", 8080)
	w := &l.world
	w.Classes = []gatewayv1.GatewayClass{{ObjectMeta: metav1.ObjectMeta{Name: "doors"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: Name}}}
	w.Gateways = []gatewayv1.Gateway{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "front"},
		Spec: gatewayv1.GatewaySpec{GatewayClassName: "doors", Listeners: []gatewayv1.Listener{
			{Name: "web", Port: 80, Protocol: gatewayv1.HTTPProtocolType},
			{Name: "safe", Port: 443, Protocol: gatewayv1.HTTPSProtocolType},
		}},
	}}
	w.HTTPRoutes = []gatewayv1.HTTPRoute{
		route("young", 0, `{parentRefs: [{name: front}], rules: [{backendRefs: [{name: one, port: 80}]}]}`),
		route("old", time.Hour, `{parentRefs: [{name: front, sectionName: web}], rules: [{backendRefs: [{name: gone, port: 80}]}]}`),
		route("odd", 0, `{parentRefs: [{name: front}], rules: [{matches: [{path: {type: RegularExpression, value: /a.*}}]}]}`),
		route("other", 0, `{parentRefs: [{name: back}], rules: [{}]}`),
	}
	s := w.Assign()
	if len(s.Listeners) != 1 || s.Listeners[0].Port != 80 {
		t.Fatalf("%+v", s.Listeners)
	}
	p := Compile(s.Listeners[0].Rules)
	var versions []string
	for _, v := range p.Router.Versions {
		versions = append(versions, fmt.Sprint(v.Name, " ", v.Weight))
	}
	if d := cmp.Diff([]string{"gateway 0%", "http/shop/old/0 100%"}, versions); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for i, want := range []string{"Accepted ResolvedRefs", "Accepted !BackendNotFound", "!UnsupportedValue ResolvedRefs", ""} {
		r := &w.HTTPRoutes[i]
		s.setRoute(&r.Status.RouteStatus, r.Generation, routeOf("http", &r.ObjectMeta))
		var got []string
		for _, parent := range r.Status.Parents {
			for _, c := range parent.Conditions {
				text := c.Reason
				if c.Status == metav1.ConditionFalse {
					text = "!" + text
				}
				if got = append(got, text); c.ObservedGeneration != 3 {
					t.Errorf("%s: %+v", r.Name, c)
				}
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, want %q", r.Name, got, want)
		}
		if s.setRoute(&r.Status.RouteStatus, r.Generation, routeOf("http", &r.ObjectMeta)) {
			t.Errorf("%s: its status changes by itself", r.Name)
		}
	}
	g := &w.Gateways[0]
	s.setGateway(g, netip.MustParseAddr("10.0.0.9"))
	if g.Status.Addresses[0].Value != "10.0.0.9" || g.Status.Listeners[0].AttachedRoutes != 2 ||
		g.Status.Listeners[1].Conditions[0].Status != metav1.ConditionFalse || g.Status.Conditions[1].Status != metav1.ConditionFalse {
		t.Errorf("%+v", g.Status)
	}
	if s.setGateway(g, netip.MustParseAddr("10.0.0.9")) {
		t.Error("its status changes by itself")
	}
}
