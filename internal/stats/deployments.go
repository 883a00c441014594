package stats

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// deployment is one attempt to bring something new to an environment: a change's, with the
// releases that it made, or a release by hand.
type deployment struct {
	Place
	key       string
	deploy    *Event
	releases  []*Event
	services  []string
	images    map[string]string
	began     time.Time
	ended     time.Time // when the requests were those of what it brought, or of what was before
	end       string    // Passed, Failed, Caught, or "" for one that reached nobody
	recovered time.Time // of one that failed
	repairs   bool      // it came to put right what one before it did
}

// deployments puts events together, and finds out what became of each. They are sorted by
// their end.
func deployments(events []Event) []*deployment {
	by := map[string]*deployment{}
	for i := range events {
		e := &events[i]
		if e.Kind == Change || e.End == Along || e.End == Same || e.End == Superseded {
			continue
		}
		key := cmp.Or(e.Change, e.ID) + " " + e.Namespace
		d := by[key]
		if d == nil {
			d = &deployment{key: key, Place: e.Place, began: e.Began, images: map[string]string{}}
			by[key] = d
		}
		d.add(e)
	}
	var all []*deployment
	for _, d := range by {
		if d.settle(); d.end != "" {
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(a, b *deployment) int { return cmp.Or(a.ended.Compare(b.ended), cmp.Compare(a.key, b.key)) })
	putBack(all)
	mend(all)
	return all
}

func (d *deployment) add(e *Event) {
	if e.Kind == Deploy {
		d.deploy, d.Place = e, e.Place
	} else {
		d.releases = append(d.releases, e)
	}
	if e.Began.Before(d.began) {
		d.began = e.Began
	}
	d.services = slices.Compact(slices.Sorted(slices.Values(slices.Concat(d.services, e.Services))))
	maps.Copy(d.images, e.Images)
}

// settle says how it ended. A canary that was caught is no failed deployment: nobody had to
// do anything.
func (d *deployment) settle() {
	var full time.Time
	ends := map[string]bool{}
	for _, r := range d.releases {
		ends[r.End] = true
		if r.End == Promoted && r.Full.After(full) {
			full = r.Full
		}
		d.ended = later(d.ended, r.Ended)
	}
	switch {
	case d.deploy != nil && (d.deploy.End == Failed || full.IsZero()):
		d.ended = d.deploy.Ended
	case !full.IsZero():
		d.ended = full
	}
	switch {
	case ends[Fallen] || ends[Stopped]:
		d.end = Failed
	case d.deploy != nil && d.deploy.End == Passed:
		d.end = Passed
	case ends[Caught]:
		d.end = Caught
	case ends[Stillborn]:
	case d.deploy != nil:
		d.end = Failed
	case ends[Promoted]:
		d.end = Passed
	}
	if d.end != Failed {
		return
	}
	// Where a release was undone, or the deployment says so, what was before is back.
	for _, r := range d.releases {
		if r.End == Fallen || r.End == Stopped {
			d.recovered = later(d.recovered, r.Ended)
		}
	}
	if d.deploy != nil && d.deploy.Back {
		d.recovered = later(d.recovered, d.deploy.Ended)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// putBack finds those that bring back an image that a service has had before: what they
// take the place of has failed.
func putBack(all []*deployment) {
	type place struct{ tenant, namespace, service string }
	type running struct {
		now string
		by  *deployment
		had map[string]bool
	}
	seen := map[place]*running{}
	for _, d := range all {
		if d.end != Passed {
			continue
		}
		for _, service := range slices.Sorted(maps.Keys(d.images)) {
			image := d.images[service]
			at := place{d.Tenant, d.Namespace, service}
			r := seen[at]
			if r == nil {
				r = &running{had: map[string]bool{}}
				seen[at] = r
			}
			if image == r.now {
				continue
			}
			if r.had[image] && r.by.end == Passed && !r.by.repairs {
				r.by.end, r.by.recovered = Failed, d.ended
				d.repairs = true
			}
			r.had[image], r.now, r.by = true, image, d
		}
	}
}

// mend finds what has put right those that failed: the next one that passed, of the same
// services. It is rework, also if what was before had been put back already.
func mend(all []*deployment) {
	for i, d := range all {
		if d.end != Failed {
			continue
		}
		for _, next := range all[i+1:] {
			// One that was taken back later had passed until then.
			passed := next.end == Passed || next.end == Failed && next.recovered.After(next.ended)
			if !passed || next.Tenant != d.Tenant || next.Namespace != d.Namespace || !touches(next.services, d.services) {
				continue
			}
			next.repairs = true
			if d.recovered.IsZero() {
				d.recovered = next.ended
			}
			break
		}
	}
}
