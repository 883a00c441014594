package spec

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/release/latency"
	"github.com/bightdev/bight/internal/release/verdict"
)

// EvidencePath is where the controller takes a [Batch], by POST as JSON. It answers 204
// when the batch counts, or has counted before; 404 when the release is not judged any
// more; anything else is to be tried again.
const EvidencePath = "/evidence"

// PairsPath is where the controller takes [Pairs], by POST as JSON. It answers 204 when
// they are kept, 404 when nobody wants them, anything else is to be tried again.
const PairsPath = EvidencePath + "/pairs"

// BundlePath is where the controller has an [evidence.Bundle], below it NAMESPACE/RELEASE,
// for who may get releases/evidence. It answers 404 when there is none.
const BundlePath = EvidencePath + "/bundles"

// RecordPath is where the controller has the [verdict.Record] of a release, of all judges
// that it has, below it NAMESPACE/RELEASE, for who may get releases/evidence: compressed by
// gzip. It answers 404 when there is none.
const RecordPath = EvidencePath + "/records"

// Pairs are what a node agent has kept of the requests of a release. Those that come
// later from the same node take their place.
type Pairs struct {
	Namespace string          `json:"namespace"`
	Release   string          `json:"release"`
	UID       types.UID       `json:"uid"`
	Node      string          `json:"node"`
	Pairs     []evidence.Pair `json:"pairs"`
	// Record is what the agent's own judge was told, if that has convicted the version: a
	// [verdict.Record], compressed by gzip.
	Record []byte `json:"record,omitempty"`
}

// Batch is what a node agent has counted of a release since the batch before. The same
// Seq again is the same batch, so that each counts once.
type Batch struct {
	Namespace string    `json:"namespace"`
	Release   string    `json:"release"`
	UID       types.UID `json:"uid"` // of the Release
	Node      string    `json:"node"`
	// Boot tells one run of the agent from another; Seq grows by one with each batch
	// of a Boot, from 1.
	Boot   string         `json:"boot"`
	Seq    int64          `json:"seq"`
	Counts verdict.Counts `json:"counts"`
	// Stable are the latencies of stable's requests in the last minutes, all that the agent
	// knows: it takes the place of what was told before. It is told until the canary gets
	// its first request.
	Stable *Latencies `json:"stable,omitempty"`
	// Convicted is why the agent's own judge has, or "".
	Convicted string `json:"convicted,omitempty"`
}

// Latencies are those of requests that went well, from the decision to the head of the
// answer, and over how long they were measured.
type Latencies struct {
	Counts latency.Histogram `json:"counts"`
	Over   time.Duration     `json:"overNs"`
}
