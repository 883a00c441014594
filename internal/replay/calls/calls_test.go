package calls

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/release/evidence"
)

// get is a request for a path of stock.
func get(target string) evidence.Request {
	return evidence.Request{Method: "GET", Host: "stock:7000", Target: target}
}

// post is one with a JSON body.
func post(target, body string) evidence.Request {
	return evidence.Request{
		Method: "POST", Host: "stock:7000", Target: target,
		Header: map[string][]string{"Content-Type": {"application/json"}, "Authorization": {"Bearer abcdefghijkl"}},
		Body:   evidence.Body{Bytes: []byte(body)},
	}
}

func answered(body string) *evidence.Answer {
	return &evidence.Answer{Status: 200, Header: map[string][]string{"Content-Type": {"application/json"}}, Body: evidence.Body{Bytes: []byte(body)}}
}

// made is a call of a round that is recorded: what caused it, and what it was.
type made struct {
	cause  string
	q      evidence.Request
	answer string
}

// recorded is the recording of such calls, written and read again.
func recorded(t *testing.T, all ...made) *Recording {
	t.Helper()
	var r Recorder
	for _, m := range all {
		r.Begin(m.cause, nil)
		r.Finish(r.Start(m.q, nil), m.q, answered(m.answer), "")
		r.End()
	}
	text, err := r.Recording("cart-7", "shop").Write()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Read(text)
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return back
}

func TestWhichAnswerACallGets(t *testing.T) {
	r := recorded(t,
		made{"", get("/config"), `"start"`},
		made{"a/1", get("/x"), `1`}, made{"a/1", get("/x"), `2`},
		made{"a/2", get("/x"), `3`},
		made{"a/1", post("/take", `{"id":7,"n":1}`), `"seven"`}, made{"a/1", post("/take", `{"id":8,"n":1}`), `"eight"`},
		made{"a/1", post("/login", `{"user":"ada","password":"one"}`), `"first"`}, made{"a/1", post("/login", `{"user":"ada","password":"two"}`), `"second"`},
		made{"a/1", get("/me?token=abc"), `"me"`},
	)
	for _, tt := range []struct {
		name  string
		cause string
		asks  []evidence.Request
		want  string // answers, or why there is none
	}{
		{"InTheOrderInWhichTheyCame", "a/1", []evidence.Request{get("/x"), get("/x")}, `1 2`},
		{"MoreOftenThanRecorded", "a/1", []evidence.Request{get("/x"), get("/x"), get("/x")}, `1 2 2`},
		{"OfTheSameRequest", "a/2", []evidence.Request{get("/x"), get("/x")}, `3 3`},
		{"OfAnotherRequest", "a/3", []evidence.Request{get("/x"), get("/x")}, `1 2`},
		{"OfNoRequest", "a/2", []evidence.Request{get("/config")}, `"start"`},
		{"ByTheBody", "a/1", []evidence.Request{post("/take", `{"id":8,"n":1}`)}, `"eight"`},
		{"FieldsInAnotherOrder", "a/1", []evidence.Request{post("/take", `{"n": 1, "id": 8}`)}, `"eight"`},
		{"ASecretIsNoDifference", "a/1", []evidence.Request{post("/login", `{"user":"ada","password":"new"}`), post("/login", `{"user":"ada","password":"newer"}`)}, `"first" "second"`},
		{"ASecretParameter", "a/1", []evidence.Request{get("/me?token=other")}, `"me"`},
		{"AnotherBody", "a/1", []evidence.Request{post("/take", `{"id":9}`)}, "it has one with another body"},
		{"AnotherQuery", "a/1", []evidence.Request{get("/me?id=7")}, "it has one with another query"},
		{"AnotherMethod", "a/1", []evidence.Request{get("/take")}, "it has one with another method"},
		{"AnotherPath", "a/1", []evidence.Request{get("/y")}, "GET http://stock:7000/y"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := NewAnswers(r)
			a.Begin(tt.cause, nil)
			var got []string
			for _, q := range tt.asks {
				answer, miss := a.Find(q, nil)
				if miss != nil {
					got = append(got, miss.Text())
					continue
				}
				got = append(got, string(answer.Body))
			}
			text := strings.Join(got, " ")
			if _, missed := a.Of(tt.cause); text != tt.want && (len(a.Misses()) == 0 || !strings.Contains(text, tt.want)) {
				t.Errorf("the answers are %s, want %s (%v)", text, tt.want, missed)
			}
		})
	}
}

func TestWhatIsMissingIsToldByRequest(t *testing.T) {
	a := NewAnswers(recorded(t, made{"a/1", get("/token"), `{"token":"x","n":1}`}))
	ask := func(q evidence.Request, traces ...string) { a.Find(q, traces) }
	a.Begin("a/1", []string{"t1"})
	ask(get("/token"))
	ask(get("/x"))
	ask(get("/x"))
	a.End()
	a.Begin("a/2", []string{"t2"})
	ask(get("/x"))
	ask(get("/y"), "t1") // late, for the first
	a.Refuse("db:5432", "it is no HTTP")
	a.End()
	ask(get("/z"))

	of := func(all []Miss) (out []string) {
		for _, m := range all {
			out = append(out, m.Text())
		}
		return out
	}
	none := "the recording has no answer for "
	for cause, want := range map[string][]string{
		"a/1": {none + "GET http://stock:7000/x (2 times)", none + "GET http://stock:7000/y"},
		"a/2": {none + "GET http://stock:7000/x", none + "db:5432: it is no HTTP"},
		"":    {none + "GET http://stock:7000/z"},
	} {
		misses, hidden := a.Of(cause)
		if diff := cmp.Diff(want, of(misses)); diff != "" {
			t.Errorf("of %q (-want +got):\n%s", cause, diff)
		}
		if (cause == "a/1") != (len(hidden) == 1) {
			t.Errorf("of %q, %v have hidden values", cause, hidden)
		}
	}
	if diff := cmp.Diff([]string{
		none + "GET http://stock:7000/x (3 times)", none + "GET http://stock:7000/y", none + "db:5432: it is no HTTP", none + "GET http://stock:7000/z",
	}, of(a.Misses())); diff != "" {
		t.Errorf("of all (-want +got):\n%s", diff)
	}
}

func TestMissesAreBounded(t *testing.T) {
	a := NewAnswers(&Recording{})
	for _, cause := range []string{"a/1", "a/2"} {
		a.Begin(cause, nil)
		for i := range mostNotes + 5 {
			a.Find(get(fmt.Sprint("/", i)), nil)
		}
		a.End()
	}
	first, _ := a.Of("a/1")
	if n := len(first); n != mostNotes+1 || first[n-1].Text() != "the recording has no answer for other calls (5 times)" {
		t.Errorf("of the first request, %d are told, at last %q", n, first[n-1].Text())
	}
	// What is not told apart belongs to its request all the same.
	if second, _ := a.Of("a/2"); len(second) != 1 || second[0].Times != mostNotes+5 {
		t.Errorf("of the second request is told %+v", second)
	}
	all := a.Misses()
	if n := len(all); n != mostNotes+1 || all[n-1].Times != mostNotes+10 {
		t.Errorf("of all, %d are told, at last %+v", n, all[n-1])
	}
	var texts []string
	for _, m := range all {
		texts = append(texts, m.Text())
	}
	if some := Some(texts); len(some) != Most+1 || some[Most] != fmt.Sprintf("and %d more", mostNotes+1-Most) {
		t.Errorf("of these are said %q", some)
	}
	if diff := cmp.Diff(texts[:Most], Some(texts[:Most])); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNoSecretIsWritten(t *testing.T) {
	var r Recorder
	q := post("/login?access_token=SECRET1&next=https%3A%2F%2Fapp%2Fcb%3Ftoken%3DSECRET9", `{"user":"ada","password":"SECRET2"}`)
	q.Header["Cookie"] = []string{"SECRET3"}
	a := answered(`{"session":{"token":"SECRET4"},"id":7}` + "\n")
	a.Header["Set-Cookie"] = []string{"a=SECRET5"}
	a.Header["X-Total"] = []string{"7"}
	a.Trailer = map[string][]string{"X-Auth-Token": {"SECRET6"}}
	r.Finish(r.Start(q, nil), q, a, "")
	form := evidence.Request{
		Method: "POST", Host: "auth:80", Target: "/form", Header: map[string][]string{"Content-Type": {"application/x-www-form-urlencoded"}},
		Body: evidence.Body{Bytes: []byte("password=SECRET7&user=ada")},
	}
	r.Finish(r.Start(form, nil), form, answered(`{}`), "")
	raw := evidence.Request{
		Method: "PUT", Host: "auth:80", Target: "/file", Header: map[string][]string{"Content-Type": {"multipart/form-data; boundary=x"}},
		Body: evidence.Body{Bytes: []byte("--x SECRET8")},
	}
	r.Finish(r.Start(raw, nil), raw, answered(`{}`), "")
	text, err := r.Recording("cart-7", "shop").Write()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "SECRET") {
		t.Errorf("a secret is written:\n%s", text)
	}
	if !strings.Contains(string(text), `"url": "http://auth/form"`) || !strings.Contains(string(text), "X-Total") {
		t.Errorf("what is no secret is missing:\n%s", text)
	}
	// The calls are found all the same, with other secrets.
	back, err := Read(text)
	if err != nil {
		t.Fatal(err)
	}
	answers := NewAnswers(back)
	form.Body.Bytes, raw.Body.Bytes = []byte("password=other&user=ada"), []byte("--y")
	for _, q := range []evidence.Request{q, form, raw} {
		if _, miss := answers.Find(q, nil); miss != nil {
			t.Errorf("%s", miss.Text())
		}
	}
}

func TestWhatTheOwnerWantsHiddenIsHidden(t *testing.T) {
	r := Recorder{Rules: evidence.Rules{Fields: []string{"customer"}}}
	q := post("/buy?customer=SECRET1", `{"customer":"SECRET2","n":1}`)
	a := answered(`{"customer":"SECRET3","id":7}`)
	a.Header["Customer"] = []string{"SECRET4"}
	r.Finish(r.Start(q, nil), q, a, "")
	text, err := r.Recording("cart-7", "shop").Write()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "SECRET") {
		t.Errorf("what is to be hidden is written:\n%s", text)
	}
	back, err := Read(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, miss := NewAnswers(back).Find(post("/buy?customer=other", `{"customer":"another","n":1}`), nil); miss != nil {
		t.Errorf("with another customer: %s", miss.Text())
	}
}

func TestWhetherABodyHadHiddenValuesIsKnown(t *testing.T) {
	packed := func(body string) *evidence.Answer {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		_, _ = w.Write([]byte(body))
		_ = w.Close()
		a := answered(z.String())
		a.Header["Content-Encoding"] = []string{"gzip"}
		return a
	}
	for _, tt := range []struct {
		name   string
		answer *evidence.Answer
		want   bool
	}{
		{"Plain", answered(`{"id":7}`), false},
		{"PlainHidden", answered(`{"token":"x"}`), true},
		{"Packed", packed(`{"id":7}`), false},
		{"PackedHidden", packed(`{"token":"x"}`), true},
	} {
		var r Recorder
		r.Finish(r.Start(get("/x"), nil), get("/x"), tt.answer, "")
		if a := r.calls[0].Answer; a == nil || a.Hidden != tt.want {
			t.Errorf("%s: kept is %+v, want hidden to be %v", tt.name, a, tt.want)
		}
	}
}

func TestWhatHasNoAnswer(t *testing.T) {
	png := answered("x")
	png.Header = map[string][]string{"Content-Type": {"text/event-stream"}}
	long := answered("")
	long.Body.Cut = true
	var r Recorder
	r.Finish(r.Start(get("/events"), nil), get("/events"), png, "")
	r.Finish(r.Start(get("/long"), nil), get("/long"), long, "")
	r.Finish(r.Start(get("/gone"), nil), get("/gone"), nil, "the connection broke off")
	r.Start(get("/slow"), nil)
	r.Start(get("/slow"), nil)
	rec := r.Recording("cart-7", "")
	want := []string{
		"GET http://stock:7000/events: its answer (text/event-stream) is in a format in which secrets can't be found, or has one that can't be hidden",
		"GET http://stock:7000/long: its answer is longer than 1 MiB",
		"GET http://stock:7000/gone: the connection broke off",
		"GET http://stock:7000/slow: it had not ended when the round did (2 times)",
	}
	if diff := cmp.Diff(want, rec.Lacking()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, miss := NewAnswers(rec).Find(get("/long"), nil); miss == nil || miss.Why != "its answer is longer than 1 MiB" {
		t.Errorf("of the long one is said %+v", miss)
	}
}

func TestARecordingIsFullAtSomeTime(t *testing.T) {
	var r Recorder
	for _, size := range []int{0, MostAll - 3*callSize} {
		r.size = size
		q := get(fmt.Sprint("/", size))
		r.Finish(r.Start(q, nil), q, answered(`"`+strings.Repeat("x", 2*callSize)+`"`), "")
	}
	lacking := r.Recording("", "").Lacking()
	if len(lacking) != 1 || !strings.Contains(lacking[0], "the recording is full: its bodies have 64 MiB") {
		t.Errorf("of two calls, these lack an answer: %q", lacking)
	}
	r.size = MostAll
	if r.Start(get("/more"), nil); r.Dropped != 1 {
		t.Errorf("%d calls were dropped", r.Dropped)
	}
}

func TestBodiesAreReadableAndWhole(t *testing.T) {
	for _, tt := range []struct{ body, want string }{
		{`{"a":1,"b":["<x>"]}`, `{"json":{"a":1,"b":["<x>"]}}`},
		{"{\"b\":2,\"a\":1.0}\n", `{"json":{"b":2,"a":1.0},"line":true}`},
		{`{"a": 1}`, `{"text":"{\"a\": 1}"}`},
		{"7", `{"json":7}`},
		{"hello\n", `{"text":"hello\n"}`},
		{"\n", `{"text":"\n"}`},
		{"\x89PNG\xff", `{"base64":"iVBORw=="}`},
	} {
		text, err := Body(tt.body).MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if tt.body[0] != '\x89' && strings.TrimSpace(string(text)) != tt.want {
			t.Errorf("%q is written as %s, want %s", tt.body, text, tt.want)
		}
		r := &Recording{Calls: []Call{{Method: "GET", URL: "http://x/", Body: Body(tt.body), Answer: &Answer{Status: 200}}}}
		if text, err = r.Write(); err != nil {
			t.Fatal(err)
		}
		back, err := Read(text)
		if err != nil || !bytes.Equal(back.Calls[0].Body, []byte(tt.body)) {
			t.Errorf("%q has become %q, %v", tt.body, back.Calls[0].Body, err)
		}
	}
}

func FuzzBodiesAreWhole(f *testing.F) {
	f.Add([]byte(`{"a": 1}`))
	f.Add([]byte("[1]\n\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		text, err := json.Marshal(Body(body))
		if err != nil {
			t.Fatal(err)
		}
		var back Body
		if err := json.Unmarshal(text, &back); err != nil || !bytes.Equal(back, body) {
			t.Errorf("%q has become %q by %s: %v", body, back, text, err)
		}
	})
}

func TestRead(t *testing.T) {
	for text, want := range map[string]string{
		`[]`:              "no recording of calls",
		`{"format":1}`:    "bight replay --record writes one",
		`{"recording":2}`: "format 2, and this program reads format 1",
		`{"recording":1,"calls":[{"method":"GET","url":"x"}]}`:                               `call 1 of the recording, "GET x", is none`,
		`{"recording":1,"calls":[{"method":"GET","url":"http://x/","answer":{"status":7}}]}`: "an answer with status 7",
	} {
		if _, err := Read([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestPlaces(t *testing.T) {
	for _, tt := range []struct{ to, host, want string }{
		{"10.43.1.2:7000", "stock:7000", "stock:7000"},
		{"10.43.1.2:80", "Stock.shop.svc.cluster.local", "stock:80"},
		{"10.43.1.2:80", "stock.other", "stock.other:80"},
		{"10.43.1.2:7000", "10.43.1.2:7000", "10.43.1.2:7000"},
		{"stock.shop:7000", "127.0.0.1:41234", "stock:7000"},
		{"stock:7000", "", "stock:7000"},
		{"stock:7000", "localhost:7000", "stock:7000"},
		{"[fd00::1]:7000", "[fd00::1]:7000", "[fd00::1]:7000"},
		{"10.43.1.2:80", "shop.svc.example.com", "shop.svc.example.com:80"},
		{"10.43.1.2:80", "api.example.com", "api.example.com:80"},
		{"10.43.1.2:80", "a.stock.shop.svc", "a.stock.shop:80"},
	} {
		if got := Place(tt.to, tt.host, "shop"); got != tt.want {
			t.Errorf("%s for %q is %s, want %s", tt.to, tt.host, got, tt.want)
		}
	}
	r := recorded(t, made{"", get("/"), "1"}, made{"", evidence.Request{Method: "GET", Host: "auth:80", Target: "/"}, "1"}, made{"", get("/2"), "1"})
	if diff := cmp.Diff([]string{"auth:80", "stock:7000"}, r.Places()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
