package verdict

// Answer is how a request ended, or that it has not.
type Answer struct {
	// Status is the HTTP status, 0 when no header came.
	Status int `json:"status,omitempty"`
	// GRPC is the status of a gRPC call, nil when the request is none.
	GRPC *int `json:"grpc,omitempty"`
	// Broken says that the version ended the connection, or refused it, before the
	// answer was whole. A gRPC call without a status is one.
	Broken bool `json:"broken,omitempty"`
	// Cancelled says that the client went away before the answer was whole.
	Cancelled bool `json:"cancelled,omitempty"`
	// Running says that there is no answer yet.
	Running bool `json:"running,omitempty"`
}

// Outcome is what an Answer counts as.
type Outcome int

const (
	Succeeded Outcome = iota
	Failed
	Cancelled // by the client: neither a success nor an error
	Running
)

// Classify says what an answer counts as. This is all there is to know about it:
//
//	still in flight                          Running (an error once, when it crosses Config.Hung)
//	cancelled by the client, HTTP 499,
//	gRPC CANCELLED                           Cancelled
//	connection broken or refused             Failed
//	HTTP below 100 or above 599, HTTP 5xx    Failed
//	gRPC UNKNOWN, DEADLINE_EXCEEDED,
//	UNIMPLEMENTED, INTERNAL, UNAVAILABLE,
//	DATA_LOSS, and numbers that gRPC lacks   Failed
//	anything else, HTTP 4xx and gRPC's
//	answers about the caller included        Succeeded
//
// The gRPC statuses are those that OpenTelemetry counts as errors of a server. A
// client that goes away is no error because it may have any reason; if it went
// because it waited too long, the latency says so.
func Classify(a Answer) Outcome {
	switch {
	case a.Running:
		return Running
	case a.Cancelled, a.Status == 499:
		return Cancelled
	case a.Broken, a.Status < 100, a.Status > 599, a.Status >= 500:
		return Failed
	case a.GRPC == nil:
		return Succeeded
	}
	switch *a.GRPC {
	case 1:
		return Cancelled
	case 0, 3, 5, 6, 7, 8, 9, 10, 11, 16:
		return Succeeded
	}
	return Failed
}
