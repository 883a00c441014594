package evidence

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWhatIsHidden(t *testing.T) {
	tests := []struct {
		name, kind, body, want string
		cut                    bool
	}{
		{"fields", "application/json", `{"user": "ada", "password" : "horse staple", "n":1}`, `{"user": "ada", "password" : "[hidden]", "n":1}`, false},
		{"types stay", "application/json; charset=utf-8", `{"token":12345,"apiKey":true,"api-key":null}`, `{"token":0,"apiKey":false,"api-key":null}`, false},
		{"all below", "application/problem+json", `{"credentials":{"a":"b","list":[1,{"c":"d"}]},"e":"f"}`, `{"credentials":{"a":"[hidden]","list":[0,{"c":"[hidden]"}]},"e":"f"}`, false},
		{"in lists", "application/json", `[{"secret":"x"},{"name":"y"}]`, `[{"secret":"[hidden]"},{"name":"y"}]`, false},
		{"a string that looks like one", "application/json", `{"note":"use ghp_abcdefghijklmnopqrstuvwxyz0123"}`, `{"note":"use [hidden]"}`, false},
		{"cut in a secret", "application/json", `{"id": 7, "password":"hors`, `{"id": 7, "password"`, true},
		{"cut in a text", "application/json", `{"id": 7, "note":"hors`, `{"id": 7, "note"`, true},
		{"several values", "application/json", "{\"pin\":\"1\"}\n{\"pin\":\"2\"}\n", "{\"pin\":\"[hidden]\"}\n{\"pin\":\"[hidden]\"}\n", false},
		{"an escaped name", "application/json", `{"pass\u0077ord":"x"}`, `{"pass\u0077ord":"[hidden]"}`, false},
		{"a field of one's own", "application/json", `{"customer":"x"}`, `{"customer":"[hidden]"}`, false},
		{"without a type", "", `{"password":"x"}`, `{"password":"[hidden]"}`, false},
		{"a form", "application/x-www-form-urlencoded", "name=ada&password=x%20y&%zz=1&auth%5Btoken%5D=5", "name=ada&password=%5Bhidden%5D&%zz=%5Bhidden%5D&auth%5Btoken%5D=%5Bhidden%5D", false},
		{"text", "text/plain", "see postgres://u:pw@db/x and Bearer abcdefgh12", "see [hidden]db/x and [hidden]", false},
		{"a key", "text/plain", "-----BEGIN RSA PRIVATE KEY-----\nabc", "[hidden]", false},
		{"JSON that says it is text", "text/plain; charset=utf-8", ` {"password":"x"}`, ` {"password":"[hidden]"}`, false},
		{"JSON in a text", "application/json", `{"payload":"{\"token\":\"x\"}"}`, `{"payload":"{\"token\":\"[hidden]\"}"}`, false},
		{"JSON in a form", "application/x-www-form-urlencoded", "payload=%7B%22token%22%3A%22x%22%7D", "payload=%7B%22token%22%3A%22%5Bhidden%5D%22%7D", false},
		{"words of names", "application/json", `{"DB_PASS":"x","signingKey":"y","shipping":"z","monkey":"w"}`, `{"DB_PASS":"[hidden]","signingKey":"[hidden]","shipping":"z","monkey":"w"}`, false},
		{"lines of events", "text/event-stream", "data: 1", "", true},
		{"files", "multipart/form-data; boundary=x", "--x", "", true},
	}
	rules := &Rules{Fields: []string{"customer"}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &Pair{Request: Request{Method: "POST", Target: "/", Body: Body{Bytes: []byte(tt.body)}}}
			if tt.kind != "" {
				p.Request.Header = map[string][]string{"Content-Type": {tt.kind}}
			}
			rules.Redact(p)
			b := p.Request.Body
			if string(b.Bytes) != tt.want || b.Cut != tt.cut {
				t.Errorf("kept is %s (cut %v), want %s (cut %v)", b.Bytes, b.Cut, tt.want, tt.cut)
			}
			if !b.Cut && b.Changed != (tt.want != tt.body) {
				t.Errorf("it is said to be changed: %v", b.Changed)
			}
		})
	}
}

func TestHeadersAndParametersAreHidden(t *testing.T) {
	p := &Pair{
		Request: Request{Method: "GET", Target: "/a?q=1&access_token=abc&next=Bearer%20abcdefghi", Header: map[string][]string{
			"Authorization": {"Bearer x"}, "Cookie": {"a=b"}, "Accept": {"text/html"}, "X-Tenant": {"7"}, "X-Forwarded-For": {"10.0.0.1"},
		}},
		Answer: &Answer{Status: 500, Header: map[string][]string{"Set-Cookie": {"a=b"}, "Content-Type": {"text/plain"}}, Body: Body{Bytes: []byte("oops")}},
		Why:    "status 500: eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc",
	}
	(&Rules{Headers: []string{"x-tenant"}}).Redact(p)
	want := Request{Method: "GET", Target: "/a?q=1&access_token=%5Bhidden%5D&next=%5Bhidden%5D", Header: map[string][]string{
		"Authorization": {Hidden}, "Cookie": {Hidden}, "Accept": {"text/html"}, "X-Tenant": {"7"}, "X-Forwarded-For": {Hidden},
	}, Hidden: []string{"Authorization", "Cookie", "X-Forwarded-For", "access_token", "next"}}
	if diff := cmp.Diff(want, p.Request); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if p.Answer.Header["Set-Cookie"][0] != Hidden || string(p.Answer.Body.Bytes) != "oops" || p.Why != "status 500: "+Hidden {
		t.Errorf("the answer is %+v, why %q", p.Answer, p.Why)
	}
}

func TestCompressedBodiesAreReadAndHidden(t *testing.T) {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write([]byte(`{"password":"x"}`))
	_ = w.Close()
	for _, tt := range []struct {
		encoding string
		body     []byte
		want     string
		cut      bool
	}{{"gzip", z.Bytes(), `{"password":"[hidden]"}`, false}, {"gzip", z.Bytes()[:20], "", true}, {"br", []byte("secret"), "", true}} {
		a := &Answer{Header: map[string][]string{"Content-Encoding": {tt.encoding}, "Content-Type": {"application/json"}}, Body: Body{Bytes: tt.body}}
		(&Rules{}).Answer(a)
		if a.Body.Cut != tt.cut || !tt.cut && string(a.Body.Bytes) != tt.want || strings.Contains(string(a.Body.Bytes), "x\"") {
			t.Errorf("%s: %q, cut %v", tt.encoding, a.Body.Bytes, a.Body.Cut)
		}
	}
}

func TestWhatIsAnsweredFromIsKeptWhole(t *testing.T) {
	rules := &Rules{Again: true}
	for _, tt := range []struct {
		name, kind, body, want string
		cut                    bool
	}{
		{"fields are hidden", "application/json", `{"id":7,"token":"x"}`, `{"id":7,"token":"[hidden]"}`, false},
		{"a picture", "image/png", "\x89PNG\xff", "\x89PNG\xff", false},
		{"a message", "application/x-protobuf", "\x0a\x03ada", "\x0a\x03ada", false},
		{"a message with a key", "application/x-protobuf", "\x0a\x30 Bearer abcdefghijkl", "", true},
		{"a call", "application/grpc", "\x00\x00\x00\x00\x03ada", "\x00\x00\x00\x00\x03ada", false},
		{"a call with a key", "application/grpc+proto", "\x00\x00\x00\x00\x1eghp_abcdefghijklmnopqrstuvwxyz", "", true},
		{"events", "text/event-stream", "data: 1", "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &Pair{Request: Request{Method: "GET", Target: "/"}, Answer: &Answer{
				Header: map[string][]string{"Content-Type": {tt.kind}}, Body: Body{Bytes: []byte(tt.body)},
			}}
			rules.Redact(p)
			if b := p.Answer.Body; string(b.Bytes) != tt.want || b.Cut != tt.cut {
				t.Errorf("kept is %q (cut %v), want %q (cut %v)", b.Bytes, b.Cut, tt.want, tt.cut)
			}
		})
	}
	a := &Answer{Header: map[string][]string{"X-Total": {"7"}, "Set-Cookie": {"a=b"}, "Location": {"/next?id=7&token=x"}, "X-Api-Key": {"k"}}}
	rules.Answer(a)
	want := map[string][]string{"X-Total": {"7"}, "Set-Cookie": {Hidden}, "Location": {"/next?id=7&token=%5Bhidden%5D"}, "X-Api-Key": {Hidden}}
	if diff := cmp.Diff(want, a.Header); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSecretsInURLsOfHeadersAreHidden(t *testing.T) {
	const hidden = "%5Bhidden%5D"
	for _, tt := range []struct{ name, value, want string }{
		{"Location", "/next?id=7&token=SECRET", "/next?id=7&token=" + hidden},
		{"Location", "https://app/cb#access_token=SECRET&state=1", "https://app/cb#access_token=" + hidden + "&state=1"},
		{"Location", "/cb?id=7#/home?token=SECRET", "/cb?id=7#/home?token=" + hidden},
		{"Location", "/cb#part", "/cb#part"},
		{"Location", "/cb;token=SECRET/x", "/cb;token=" + hidden},
		{"Link", `<http://x/?token=SECRET>; rel="next", <http://x/?page=2;sig=SECRET>; rel="last"`, `<http://x/?token=` + hidden + `>; rel="next", <http://x/?page=2;sig=` + hidden + `>; rel="last"`},
		{"Content-Location", "/doc?id=7&api%5Fkey=SECRET#top", "/doc?id=7&api%5Fkey=" + hidden + "#top"},
		{"Refresh", "0;url=http://x/?token=SECRET", "0;url=http://x/?token=" + hidden},
		{"Refresh", "0; url=http://x/?page=7", "0; url=http://x/?page=7"},
		{"Azure-AsyncOperation", "https://x/op?api-version=1&sig=SECRET", "https://x/op?api-version=1&sig=" + hidden},
		{"X-Next", "go to /a?%zz=SECRET now", "go to /a?%zz=" + hidden + " now"},
		{"X-Grant", `one; token="SECRET x"; n=1`, "one; token=" + hidden + "; n=1"},
		{"X-Customer-Link", "/c?customer=SECRET", "/c?customer=" + hidden},
	} {
		a := &Answer{Header: map[string][]string{tt.name: {tt.value}}}
		(&Rules{Again: true, Fields: []string{"customer"}}).Answer(a)
		if got := a.Header[tt.name][0]; got != tt.want {
			t.Errorf("of %s: %s is kept %s, want %s", tt.name, tt.value, got, tt.want)
		}
	}
}

// A URL may be a parameter of another: of a login, of what makes a picture smaller.
func TestSecretsInURLsInURLsAreHidden(t *testing.T) {
	nested := func(times int, inner string) string {
		for range times {
			inner = url.QueryEscape(inner)
		}
		return inner
	}
	const inside = "https://b/cb?id=7&token="
	for _, tt := range []struct{ target, want string }{
		{"/login?next=" + nested(1, inside+"SECRET") + "&n=1", "/login?next=" + nested(1, inside+nested(1, Hidden)) + "&n=1"},
		{"/login?next=" + inside + "SECRET", "/login?next=" + inside + nested(1, Hidden)},
		{"/login?next=https://b?token=SECRET", "/login?next=" + nested(1, "https://b?token="+nested(1, Hidden))},
		{"/login?next=" + nested(1, "https://b?then="+nested(1, inside+"SECRET")), "/login?next=" + nested(1, "https://b?then="+nested(1, inside+nested(1, Hidden)))},
		{"/login?next=" + nested(2, inside+"SECRET"), "/login?next=" + nested(2, inside+nested(1, Hidden))},
		{"/login?next=" + nested(4, inside+"SECRET"), "/login?next=" + nested(4, inside+nested(1, Hidden))},
		{"/login?next=" + nested(9, inside+"SECRET"), "/login?next=" + nested(6, Hidden)},
		{"/login?next=" + nested(1, "/cb#access_token=SECRET&state=1"), "/login?next=" + nested(1, "/cb#access_token="+nested(1, Hidden)+"&state=1")},
		{"/login?state=" + nested(1, "token=SECRET&n=1"), "/login?state=" + nested(1, "token="+nested(1, Hidden)+"&n=1")},
		{"/login?state=" + nested(1, "a?x="+nested(1, `{"token":"SECRET"}`)), "/login?state=" + nested(1, "a?x="+nested(1, `{"token":"[hidden]"}`))},
		{"/login?next=" + nested(1, "https://b?x=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.SECRET"), "/login?next=" + nested(1, "https://b?x="+Hidden)},
		{"/login?next=" + nested(1, "https://b?x=50%zz&token=SECRET"), "/login?next=" + nested(1, "https://b?x=50%zz&token="+nested(1, Hidden))},
		{"/go?" + nested(1, inside+"SECRET"), "/go?" + nested(1, inside+nested(1, Hidden))},
		{"/go/" + nested(1, inside+"SECRET") + "/on?n=1", "/go/" + nested(1, inside+nested(1, Hidden)) + "/on?n=1"},
		{"/go;jsessionid=SECRET?n=1", "/go;jsessionid=" + nested(1, Hidden) + "?n=1"},
		// What has nothing secret is as it was, byte for byte.
		{"/a%2fb%20c;v=1/d?next=https%3a%2f%2fb%2f%3fpage%3d2&x=50%25&y=%7b%22a%22%3a1%7d", "/a%2fb%20c;v=1/d?next=https%3a%2f%2fb%2f%3fpage%3d2&x=50%25&y=%7b%22a%22%3a1%7d"},
	} {
		p := Pair{Request: Request{Target: tt.target}}
		(&Rules{}).Redact(&p)
		got := p.Request.Target
		if got != tt.want {
			t.Errorf("%s is kept\n%s, want\n%s", tt.target, got, tt.want)
		}
		for plain := got; ; plain = decode(plain) {
			if strings.Contains(plain, "SECRET") {
				t.Errorf("%s tells %s", tt.target, plain)
			}
			if plain == decode(plain) {
				break
			}
		}
		if (&Rules{}).Redact(&p); p.Request.Target != got {
			t.Errorf("%s is kept %s, and when it is looked at again %s", tt.target, got, p.Request.Target)
		}
	}
}

func TestNoBodies(t *testing.T) {
	p := &Pair{Request: Request{Method: "POST", Target: "/", Body: Body{Bytes: []byte("x")}}}
	(&Rules{NoBodies: true}).Redact(p)
	if len(p.Request.Body.Bytes) > 0 || !p.Request.Body.Cut {
		t.Errorf("kept is %+v", p.Request.Body)
	}
}

func FuzzNoSecretIsLeft(f *testing.F) {
	for _, s := range []string{`{"password":"SECRETVALUE"}`, `[{"a":{"token":["SECRETVALUE"]}}]`, `{"password":"SECRET`, `{"a":1}{"password":"SECRETVALUE"`, `{`, `null`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		hidden := map[string]bool{}
		out, whole := (&Rules{}).json([]byte(s), hidden)
		var before, after any
		if err := json.Unmarshal([]byte(s), &before); err == nil {
			if !whole {
				t.Fatalf("%q is JSON, and was cut: %q", s, out)
			}
			if err := json.Unmarshal(out, &after); err != nil {
				t.Fatalf("%q became %q: %v", s, out, err)
			}
			look(t, after, false)
		}
	})
}

// What a client may send takes no longer to look at than it is long.
func BenchmarkTargets(b *testing.B) {
	for name, part := range map[string]string{"plain": "?a=", "encoded": "?a=%41", "quoted": `?a="`, "twice": "?a=%2541?b=%3Fc", "many": "?a=%41&", "path": "/%41;a="} {
		for _, n := range []int{1 << 10, 1 << 14} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				target := "/" + strings.Repeat(part, n)
				b.SetBytes(int64(len(target)))
				for b.Loop() {
					(&Rules{}).Redact(&Pair{Request: Request{Target: target}})
				}
			})
		}
	}
}

// A target that has been looked at is not changed by looking at it again: calls are found by it.
func FuzzATargetIsHiddenOnce(f *testing.F) {
	for _, s := range []string{"/a?next=https%3A%2F%2Fb%3Ftoken%3Dx", "/a%2fb?%25253F", "/;key=a%20b/?=#=", `/?a=%7B%22token%22%3A1%7D`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		once := Pair{Request: Request{Target: s}}
		(&Rules{}).Redact(&once)
		twice := Pair{Request: Request{Target: once.Request.Target}}
		if (&Rules{}).Redact(&twice); twice.Request.Target != once.Request.Target {
			t.Errorf("%q is kept %q, and then %q", s, once.Request.Target, twice.Request.Target)
		}
	})
}

// look fails if there is a text below a secret name.
func look(t *testing.T, v any, hides bool) {
	switch v := v.(type) {
	case map[string]any:
		for name, of := range v {
			look(t, of, hides || (&Rules{}).Secret(name))
		}
	case []any:
		for _, of := range v {
			look(t, of, hides)
		}
	case string:
		if hides && v != Hidden {
			t.Errorf("%q is left", v)
		}
	case float64:
		if hides && v != 0 {
			t.Errorf("%v is left", v)
		}
	}
}

func TestARingKeepsWhatIsOfInterest(t *testing.T) {
	r := &Ring{Most: 3, Bytes: 6000, Age: time.Minute}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	n := 0
	add := func(class Class, version string, after time.Duration, size int) {
		n++
		r.Add(&Pair{ID: fmt.Sprint(n), Class: class, Version: version, Time: start.Add(after), Request: Request{Body: Body{Bytes: make([]byte, size)}}})
	}
	ids := func() (out []string) {
		for _, p := range r.Pairs() {
			out = append(out, p.ID)
		}
		return out
	}
	add(Sample, "stable", 0, 0)
	for i := range 4 {
		add(Failed, "canary", time.Duration(i)*time.Second, 0)
	}
	if diff := cmp.Diff([]string{"1", "3", "4", "5"}, ids()); diff != "" {
		t.Errorf("more of one class (-want +got):\n%s", diff)
	}
	add(Slow, "canary", 5*time.Second, 3600) // there is no room for the sample any more
	if diff := cmp.Diff([]string{"3", "4", "5", "6"}, ids()); diff != "" {
		t.Errorf("more bytes (-want +got):\n%s", diff)
	}
	add(Failed, "stable", 5*time.Second, 10_000)
	add(Failed, "stable", 62500*time.Millisecond, 0)
	if diff := cmp.Diff([]string{"5", "6", "8"}, ids()); diff != "" {
		t.Errorf("older, and too large for any room (-want +got):\n%s", diff)
	}
	r.Grown(1000)
	if diff := cmp.Diff([]string{"5", "8"}, ids()); diff != "" {
		t.Errorf("one has grown (-want +got):\n%s", diff)
	}
}

func TestABundleIsReadAsItWasWritten(t *testing.T) {
	b := &Bundle{Format: Format, Release: "cart-1", Moved: []string{"b"}, Pairs: []Pair{
		{ID: "s", Class: Sample, Version: "canary", Request: Request{Method: "GET", Target: "/"}},
		{ID: "f", Class: Failed, Version: "stable", Request: Request{Method: "GET", Target: "/"}},
		{ID: "a", Class: Failed, Version: "canary", Request: Request{Method: "GET", Target: "/", Body: Body{Bytes: []byte{0xff, 0}}}},
		{ID: "b", Class: Failed, Version: "canary", Request: Request{Method: "POST", Target: "/x", Body: Body{Bytes: []byte("text"), Cut: true}},
			Answer: &Answer{Status: 500, Trailer: map[string][]string{"Grpc-Status": {"13"}}}},
	}}
	b.Sort()
	var order []string
	for _, p := range b.Pairs {
		order = append(order, p.ID)
	}
	if diff := cmp.Diff([]string{"b", "a", "s", "f"}, order); diff != "" {
		t.Errorf("the order (-want +got):\n%s", diff)
	}
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Read(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if b, err := Read([]byte(`{"format":1,"release":"a","pairs":[{"request":{"method":"GET","target":"evil"}},{"request":{"method":"GET","target":"/"}}]}`)); err != nil || len(b.Pairs) != 1 {
		t.Errorf("with a pair that is none: %+v, %v", b, err)
	}
	for text, want := range map[string]string{
		"{": "no evidence", `{"format":2}`: "format 2", `{"format":1,"release":"../x"}`: "no name",
	} {
		if _, err := Read([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v, want %q", text, err, want)
		}
	}
}
