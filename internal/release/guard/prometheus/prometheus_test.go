package prometheus

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/bightdev/bight/internal/release/guard"
	"github.com/bightdev/bight/internal/release/verdict"
)

// answers are what the HTTP API answers, as its documentation has them.
var answers = map[string]struct {
	code int
	body string
}{
	`scalar(up)`:  {200, `{"status":"success","data":{"resultType":"scalar","result":[1435781451.781,"1"]}}`},
	`up`:          {200, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"up","job":"prometheus","instance":"localhost:9090"},"value":[1435781451.781,"1"]},{"metric":{"__name__":"up","job":"node","instance":"localhost:9100"},"value":[1435781451.781,"0"]}]}}`},
	`absent`:      {200, `{"status":"success","data":{"resultType":"vector","result":[]}}`},
	`0/0`:         {200, `{"status":"success","data":{"resultType":"scalar","result":[1435781451.781,"NaN"]}}`},
	`1/0`:         {200, `{"status":"success","data":{"resultType":"scalar","result":[1435781451.781,"+Inf"]}}`},
	`up[1m]`:      {200, `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"up"},"values":[[1435781430.781,"1"],[1435781445.781,"1"]]}]}}`},
	`"word"`:      {200, `{"status":"success","data":{"resultType":"string","result":[1435781451.781,"word"]}}`},
	`up{`:         {400, `{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": 1:4: parse error: unexpected end of input inside braces"}`},
	`busy`:        {503, `{"status":"error","errorType":"timeout","error":"query timed out in expression evaluation"}`},
	`away`:        {302, ``},
	`html`:        {200, `<html>`},
	`much`:        {200, `{"status":"success","data":{"resultType":"vector","result":[` + strings.Repeat(`{"metric":{"a":"b"},"value":[1,"1"]},`, 40_000) + `{"metric":{},"value":[1,"1"]}]}}`},
	`a{b="cart"}`: {200, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1435781451.781,"0.25"]}]}}`},
}

func serve(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, known := answers[r.FormValue("query")]
		if r.URL.Path != "/prom/api/v1/query" || !known {
			t.Errorf("asked for %s with %v", r.URL, r.Form)
		}
		w.Header().Set("Content-Type", "application/json")
		if a.code == http.StatusFound {
			w.Header().Set("Location", "http://elsewhere.invalid/")
		}
		w.WriteHeader(a.code)
		_, _ = w.Write([]byte(a.body)) // who asks may have read enough
	}))
	t.Cleanup(s.Close)
	return s.URL + "/prom"
}

func TestAnswers(t *testing.T) {
	s, err := New(serve(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		query string
		want  verdict.GuardAnswer
		text  string
	}{
		{`scalar(up)`, verdict.GuardPass, "1"},
		{`up`, verdict.GuardFail, `0 of up{instance="localhost:9100", job="node"}, under 1`},
		{`absent`, verdict.GuardNoData, ""},
		{`0/0`, verdict.GuardNoData, ""},
		{`1/0`, verdict.GuardPass, "+Inf"},
		{`up[1m]`, verdict.GuardNoData, "the answer is a matrix: give a query whose answer is a number"},
		{`"word"`, verdict.GuardNoData, `unexpected value type "string"`},
		{`up{`, verdict.GuardNoData, "unexpected end of input inside braces"},
		{`busy`, verdict.GuardNoData, "server error: 503"},
		{`away`, verdict.GuardNoData, "302"},
		{`html`, verdict.GuardNoData, "bad_response"},
		{`much`, verdict.GuardNoData, "more than a mebibyte"},
		{`a{b="$SERVICE"}`, verdict.GuardFail, "0.25, under 1"},
		{`a{b=$SERVICE}`, verdict.GuardNoData, "not inside of quotes"},
	} {
		t.Run(tt.query, func(t *testing.T) {
			got, text := s.Ask(t.Context(), guard.Guard{Name: "g", Query: tt.query, Min: new(1.0)}, guard.About{Service: "cart"})
			if got != tt.want || !strings.Contains(text, tt.text) || tt.text == "" && text != "" {
				t.Errorf("got %s, %q, want %s, %q", got, text, tt.want, tt.text)
			}
		})
	}
}

func TestNobodyAnswers(t *testing.T) {
	s, err := New("http://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	if got, text := s.Ask(t.Context(), guard.Guard{Query: "up", Min: new(1.0)}, guard.About{}); got != verdict.GuardNoData || text == "" {
		t.Errorf("got %s, %q", got, text)
	}
}

// A store that takes questions and answers none costs a few seconds, and no more.
func TestOneThatSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := over("http://prometheus.invalid", silent{})
		if err != nil {
			t.Fatal(err)
		}
		got, text := s.Ask(t.Context(), guard.Guard{Query: "up", Min: new(1.0)}, guard.About{})
		if got != verdict.GuardNoData || text != "no answer in 10s" {
			t.Errorf("got %s, %q", got, text)
		}
	})
}

type silent struct{}

func (silent) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}
