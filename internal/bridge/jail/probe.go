package jail

import "context"

// Rung is one step of the ladder of network modes: whether this machine can do
// it, and if not why and what would help.
type Rung struct {
	Mode   Mode   `json:"mode"`
	OK     bool   `json:"ok"`
	Why    string `json:"why,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

// ModeProxy is not a jail: programs are told of a SOCKS5 and HTTP proxy. It works
// everywhere.
const ModeProxy Mode = "proxy"

// Probe tries each mode, best first. The last one is ModeProxy.
func Probe(ctx context.Context) []Rung {
	return append(probe(ctx), Rung{Mode: ModeProxy, OK: true})
}

// Best returns the first mode that works.
func Best(ladder []Rung) Rung {
	for _, r := range ladder {
		if r.OK {
			return r
		}
	}
	return Rung{}
}
