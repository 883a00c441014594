package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/bightdev/bight/internal/stats"
)

// Limits of what can be asked.
const (
	longest  = 365 * 24 * time.Hour
	usual    = 30 * 24 * time.Hour
	most     = 50_000 // events in one answer
	mostAsks = 300    // namespaces that are asked about one by one
)

// errTooMuch tells that a report would be about more than one can be.
var errTooMuch = errors.New("that is too much for one answer")

// Answer answers a request at [stats.Path]: a [stats.Report] of what may shows. Whoever may
// list Changes in an App's namespace sees how those have gone, with the releases that they
// have made; other releases, who may list Releases in theirs.
func (l *Ledger) Answer(w http.ResponseWriter, r *http.Request, may func(resource, namespace string) error) {
	q, err := read(r.URL.Query(), time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	l.mu.Lock()
	leads := l.life != nil
	l.mu.Unlock()
	if !leads {
		http.Error(w, "the controller could not open its record: its log says why", http.StatusServiceUnavailable)
		return
	}
	rights := &rights{may: may, known: map[[2]string]error{}}
	if q.Namespace != "" {
		changes, err := rights.in("changes", q.Namespace)
		releases, wrong := rights.in("releases", q.Namespace)
		if err = errors.Join(err, wrong); err != nil {
			http.Error(w, "ask what you may see: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		if !changes && !releases {
			http.Error(w, fmt.Sprintf("to see how changes and releases have gone takes the right to list changes.bight.dev or releases.bight.dev "+
				"in namespace %s, which role view has", q.Namespace), http.StatusForbidden)
			return
		}
	}
	report, err := l.report(q, rights)
	switch {
	case errors.Is(err, errTooMuch):
		http.Error(w, err.Error()+": ask for an app, a namespace or a shorter time", http.StatusRequestEntityTooLarge)
	case err != nil:
		l.Log.Warn("a question about how things have gone is not answered", "err", err)
		http.Error(w, "the controller can't tell at the moment: "+err.Error(), http.StatusServiceUnavailable)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(report) // who asked has gone
	}
}

// read reads a question.
func read(v url.Values, now time.Time) (stats.Query, error) {
	q := stats.Query{To: now, Environment: v.Get("env"), Namespace: v.Get("namespace"), App: v.Get("app"), Service: v.Get("service")}
	since := usual
	if s := v.Get("since"); s != "" {
		var err error
		if since, err = time.ParseDuration(s); err != nil || since < time.Minute || since > longest {
			return q, fmt.Errorf("since is %q: give a time from a minute to a year, as in 720h", s)
		}
	}
	q.From = now.Add(-since)
	return q, nil
}

// report reads what a question is about, and whoever asks may see.
func (l *Ledger) report(q stats.Query, rights *rights) (stats.Report, error) {
	var words [][]byte
	for _, name := range []string{q.Namespace, q.App} {
		if name != "" {
			words = append(words, []byte(`"`+name+`"`))
		}
	}
	mine := func(line []byte) bool {
		for _, word := range words {
			if !bytes.Contains(line, word) {
				return false
			}
		}
		return true
	}
	// What may be seen is asked first: nobody who waits for the lock waits for the API server.
	err := l.Journal.Read(q.Before(), mine, func(e stats.Event) error {
		if !q.About(e.Place) {
			return nil
		}
		_, err := rights.sees(e)
		return err
	})
	if err != nil {
		return stats.Report{}, err
	}
	l.answer.Lock() // of many at once each would take as much memory
	defer l.answer.Unlock()
	var events []stats.Event
	err = l.Journal.Read(q.Before(), mine, func(e stats.Event) error {
		if !q.About(e.Place) {
			return nil
		}
		sees, err := rights.sees(e)
		if err != nil || !sees {
			return err
		}
		if len(events) >= most {
			return errTooMuch
		}
		events = append(events, e)
		return nil
	})
	if err != nil {
		return stats.Report{}, err
	}
	return stats.Compute(q, l.Journal.Begun(), events), nil
}

// rights are those of one who asks.
type rights struct {
	may   func(resource, namespace string) error
	known map[[2]string]error // by resource and namespace
}

// has asks once.
func (r *rights) has(resource, namespace string) (bool, error) {
	key := [2]string{resource, namespace}
	err, asked := r.known[key]
	if !asked {
		if len(r.known) >= mostAsks {
			return false, errTooMuch
		}
		err = r.may(resource, namespace)
		r.known[key] = err
	}
	if errors.Is(err, stats.ErrForbidden) {
		return false, nil
	}
	return err == nil, err
}

// in says whether the right holds in a namespace, or in all.
func (r *rights) in(resource, namespace string) (bool, error) {
	if all, err := r.has(resource, ""); all || err != nil || namespace == "" {
		return all, err
	}
	return r.has(resource, namespace)
}

// sees says whether who asks may see an event.
func (r *rights) sees(e stats.Event) (bool, error) {
	if e.Tenant != "" {
		if yes, err := r.in("changes", e.Tenant); yes || err != nil {
			return yes, err
		}
	}
	if e.Kind != stats.Release {
		return false, nil
	}
	return r.in("releases", e.Namespace)
}
