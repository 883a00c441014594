package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/agent/gate"
	"github.com/bightdev/bight/internal/steer"
)

func TestGateFlags(t *testing.T) {
	hash := strings.Repeat("0a", 32)
	must := []string{"--listen", "24500", "--id", "cart-1", "--owner", "ada", "--token-hash", hash}
	for _, tt := range []struct {
		name  string
		args  []string
		says  string // on stderr, where they are wrong
		ports []gate.Port
		grant gate.Grant
	}{
		{"the least", must, "", nil, gate.Grant{ID: "cart-1", Owner: "ada", TokenHash: hash}},
		{"ports, probes and a rule", append(must[:len(must):len(must)], "--port", "8080/http", "--port", "9090", "--probe", "8080=/healthz", "--probe", "8080=/a=b",
			"--environment", "--container", "cart", "--rule", `{"id":"cart-1","port":8080,"mode":"intercept"}`), "",
			[]gate.Port{{Number: 8080, Protocol: steer.HTTP, Probes: []string{"/healthz", "/a=b"}}, {Number: 9090}},
			gate.Grant{ID: "cart-1", Owner: "ada", TokenHash: hash, Container: "cart", Environment: true, Rule: &steer.Rule{ID: "cart-1", Port: 8080, Mode: steer.Intercept}}},
		{"no port to listen on", must[2:], "needs --listen PORT", nil, gate.Grant{}},
		{"a port that is none", append(must[:len(must):len(must)], "--port", "http"), "want PORT", nil, gate.Grant{}},
		{"a probe of no port", append(must[:len(must):len(must)], "--probe", "8080=/"), "want PORT=PATH", nil, gate.Grant{}},
		{"a node without address", append(must[:len(must):len(must)], "--node", "node-1"), "node-1", nil, gate.Grant{}},
		{"a rule that is not JSON", append(must[:len(must):len(must)], "--rule", "{"), "JSON", nil, gate.Grant{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var errs bytes.Buffer
			v, code, err := parseGate(tt.args, &errs)
			said := errs.String()
			if err != nil {
				said += err.Error()
			}
			if tt.says != "" {
				if v != nil || code != wrongUsage || !strings.Contains(said, tt.says) {
					t.Errorf("got %v, code %d, %q, want code %d and %q", v, code, said, wrongUsage, tt.says)
				}
				return
			}
			if v == nil {
				t.Fatalf("refused with %d: %s", code, said)
			}
			if d := cmp.Diff(tt.ports, v.options.Ports); d != "" {
				t.Errorf("ports (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tt.grant, v.grant); d != "" {
				t.Errorf("grant (-want +got):\n%s", d)
			}
		})
	}
}

func TestAGateWaitsForItsLaptop(t *testing.T) {
	const patience = 15 * time.Second
	for _, tt := range []struct {
		name     string
		from, to time.Duration // when somebody is there
		cancel   time.Duration // 0 for never
		came     bool
		after    time.Duration
	}{
		{"nobody comes", 0, 0, 0, false, patience},
		{"somebody stays for long", time.Second, time.Minute, 0, true, time.Minute},
		{"somebody looks in", time.Second, 1300 * time.Millisecond, 0, true, 1400 * time.Millisecond},
		{"somebody comes at the last moment", patience, 20 * time.Second, 0, true, 20 * time.Second},
		{"it is told to end", 2 * time.Second, time.Hour, 5 * time.Second, true, 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tt.cancel > 0 {
					time.AfterFunc(tt.cancel, cancel)
				}
				began := time.Now()
				came := attend(ctx, patience, func() bool { at := time.Since(began); return at >= tt.from && at < tt.to })
				if took := time.Since(began); came != tt.came || took < tt.after || took > tt.after+look {
					t.Errorf("got %v after %v, want %v after %v", came, took, tt.came, tt.after)
				}
			})
		})
	}
}
