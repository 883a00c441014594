// Package prometheus asks a Prometheus, or whatever speaks its HTTP API, what guards want
// to know.
//
// The main type is [Store]. It is safe for concurrent use. Only the controller links this
// package.
package prometheus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/bightdev/bight/internal/release/guard"
	"github.com/bightdev/bight/internal/release/verdict"
)

// Store is where queries are answered.
type Store struct{ api promv1.API }

const (
	// patience is how long an answer may take.
	patience = 10 * time.Second
	// most is more than an answer has.
	most = 1 << 20
)

// New returns the store at a URL, which has been checked.
func New(url string) (*Store, error) {
	return over(url, &http.Transport{
		Proxy: http.ProxyFromEnvironment, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 4, ResponseHeaderTimeout: patience,
	})
}

func over(url string, transport http.RoundTripper) (*Store, error) {
	client, err := api.NewClient(api.Config{Address: url, Client: &http.Client{
		Transport: limited{transport},
		// Nobody but who was named at the installation is asked.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}})
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", url, err)
	}
	return &Store{promv1.NewAPI(client)}, nil
}

// limited reads no more than most of an answer.
type limited struct{ http.RoundTripper }

func (l limited) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = &body{io.LimitedReader{R: resp.Body, N: most}, resp.Body}
	}
	return resp, err
}

type body struct {
	io.LimitedReader
	io.Closer
}

func (b *body) Read(p []byte) (int, error) {
	if b.N <= 0 {
		return 0, errors.New("the answer has more than a mebibyte: sum it up in the query")
	}
	return b.LimitedReader.Read(p)
}

// Ask asks what a guard wants to know, now. It returns in any case within some seconds:
// without an answer there is no data, and the text says why.
func (s *Store) Ask(ctx context.Context, g guard.Guard, about guard.About) (verdict.GuardAnswer, string) {
	query, err := g.Expand(about)
	if err != nil {
		return verdict.GuardNoData, err.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	value, _, err := s.api.Query(ctx, query, time.Time{})
	if err == nil {
		var all []guard.Sample
		if all, err = samples(value); err == nil {
			return g.Judge(all)
		}
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("no answer in %s", patience)
	}
	return verdict.GuardNoData, err.Error()
}

// samples are the values of an answer.
func samples(value model.Value) (all []guard.Sample, err error) {
	switch v := value.(type) {
	case *model.Scalar:
		return []guard.Sample{{Value: float64(v.Value)}}, nil
	case model.Vector:
		for _, s := range v {
			if s.Histogram != nil {
				return nil, errors.New("the answer is a histogram: give a query whose answer is a number, as by histogram_quantile")
			}
			all = append(all, guard.Sample{Of: s.Metric.String(), Value: float64(s.Value)})
		}
		return all, nil
	}
	return nil, fmt.Errorf("the answer is a %s: give a query whose answer is a number, or one for each of some", value.Type())
}
