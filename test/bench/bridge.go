package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

const (
	// requestPause is between two small requests: they are to be few, so that they
	// are not what slows down a transfer.
	requestPause  = 2 * time.Millisecond
	idleRequests  = 200
	bulkBytes     = 256 << 20
	crowdFlows    = 1000
	crowdBytes    = 128 << 10
	stalledReader = 1
)

// bridgeTraffic measures what goes through bight run: small requests and transfers
// on connections of a command that it runs, to the address of the pod that the way
// leads through. The reference is the same program without bight run, with a
// port-forward to the same ports for each connection. What the agent and the
// multiplexer have of the difference is told beside it, without a limit. bight run is
// kept to the port-forward; where it is not, the rows say direct.
func bridgeTraffic(ctx context.Context, b *bed) ([]row, error) {
	w, err := b.wire(ctx, "bench-bridge", 1)
	if err != nil {
		return nil, err
	}
	defer w.remove()
	bare, err := w.bareLine()
	if err != nil {
		return nil, err
	}
	agent, shut, err := w.agentLine(ctx)
	if err != nil {
		return nil, err
	}
	defer shut()
	f, err := b.far(w, w.pods[0].Status.PodIP, "BIGHT_PODS_VIA=off")
	if err != nil {
		return nil, err
	}
	defer f.close()
	direct, err := b.far(w, w.pods[0].Status.PodIP) // as the cluster's kubeconfig says
	if err != nil {
		return nil, err
	}
	defer direct.close()
	t := b.bridgeTrials(bare, agent, f, direct)
	memory := series{What: "resident memory of bight run at the end of each round", Unit: "MB"}
	t.crowd.after = func(context.Context) error {
		u, err := processUsage(f.cmd.Process.Pid)
		memory.Values = append(memory.Values, megabytes(u.resident))
		return err
	}
	err = b.try(ctx, t.bareEcho, t.agentEcho, t.echo, t.directEcho,
		t.bareUp, t.agentUp, t.up, t.directUp, t.bareDown, t.agentDown, t.down, t.directDown,
		t.besideUp, t.besideDown, t.stalledEcho, t.stalledDown, t.crowd)
	if err != nil {
		return nil, err
	}
	memory.Values = memory.Values[1:] // the first round warms up
	return append(t.rows(), row{Name: "bight run, after all of these: memory", Ours: memory, Limit: 100}), nil
}

// bridgeTrials are what bridgeTraffic does.
type bridgeTrials struct {
	bareEcho, agentEcho, echo, directEcho *trial
	bareUp, agentUp, up, directUp         *trial
	bareDown, agentDown, down, directDown *trial
	besideUp, besideDown                  *trial
	stalledEcho, stalledDown              *trial
	crowd                                 *trial
}

func (b *bed) bridgeTrials(bare, agent, bridge, direct carrier) *bridgeTrials {
	echo := order{Task: taskEcho, Count: idleRequests, Every: requestPause}
	up, down := order{Task: taskUp, Bytes: bulkBytes}, order{Task: taskDown, Bytes: bulkBytes}
	beside := func(o order) order {
		o.Echo, o.Every = true, requestPause
		return o
	}
	do := func(o order) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := bridge.do(ctx, o)
			return err
		}
	}
	stall := func(ctx context.Context) error {
		err := do(order{Task: taskStall, Count: stalledReader})(ctx)
		b.rest(ctx) // whatever holds bytes for the reader is full by then
		return err
	}
	resume := do(order{Task: taskResume})
	return &bridgeTrials{
		bareEcho:    &trial{name: "request, port-forward", by: bare, order: echo},
		agentEcho:   &trial{name: "request, agent alone", by: agent, order: echo},
		echo:        &trial{name: "request", by: bridge, order: echo},
		directEcho:  &trial{name: "request, direct", by: direct, order: echo},
		bareUp:      &trial{name: "up, port-forward", by: bare, order: up},
		agentUp:     &trial{name: "up, agent alone", by: agent, order: up},
		up:          &trial{name: "up", by: bridge, order: up},
		directUp:    &trial{name: "up, direct", by: direct, order: up},
		bareDown:    &trial{name: "down, port-forward", by: bare, order: down},
		agentDown:   &trial{name: "down, agent alone", by: agent, order: down},
		down:        &trial{name: "down", by: bridge, order: down},
		directDown:  &trial{name: "down, direct", by: direct, order: down},
		besideUp:    &trial{name: "up, with requests", by: bridge, order: beside(up)},
		besideDown:  &trial{name: "down, with requests", by: bridge, order: beside(down)},
		stalledEcho: &trial{name: "request beside a stalled reader", by: bridge, order: echo, before: stall, after: resume},
		stalledDown: &trial{name: "down beside a stalled reader", by: bridge, order: down, before: stall, after: resume},
		crowd:       &trial{name: "1,000 flows", by: bridge, order: order{Task: taskCrowd, Count: crowdFlows, Bytes: crowdBytes}},
	}
}

func (t *bridgeTrials) rows() []row {
	const small = "64 B echoed on an open connection"
	bulk := size(bulkBytes)
	idle := t.echo.requests(small + " through bight run")
	bareEcho := t.bareEcho.requests(small + " of a port-forward")
	bareUp, bareDown := t.bareUp.transfers("a port-forward"), t.bareDown.transfers("a port-forward")
	up, down := t.up.transfers("bight run"), t.down.transfers("bight run")
	middle := durations("the median flow", t.crowd.each(0.5))
	// At least 0.8, 0.6 and 1.3 of a rate is at most 1.25, 1.66 and 0.77 times as long.
	return []row{
		{Name: "small request through the bridge, idle", Reference: &bareEcho, Limit: 1.5, Ours: idle},
		{Name: "one stream up, " + bulk, Reference: &bareUp, Limit: 1.25, Ours: up},
		{Name: "one stream down, " + bulk, Reference: &bareDown, Limit: 1.25, Ours: down},
		{Name: "one stream up, direct, " + bulk, Reference: &bareUp, Limit: 0.77, Ours: t.directUp.transfers("bight run, to the pod's own address")},
		{Name: "one stream down, direct, " + bulk, Reference: &bareDown, Limit: 0.77, Ours: t.directDown.transfers("bight run, to the pod's own address")},
		{Name: "small request, direct", Reference: &bareEcho, Ours: t.directEcho.requests(small + " through bight run, to the pod's own address")},
		{Name: "small request, the agent alone", Reference: &bareEcho, Ours: t.agentEcho.requests(small + " of a stream to the agent")},
		{Name: "one stream up, the agent alone, " + bulk, Reference: &bareUp, Ours: t.agentUp.transfers("a stream to the agent")},
		{Name: "one stream down, the agent alone, " + bulk, Reference: &bareDown, Ours: t.agentDown.transfers("a stream to the agent")},
		{Name: "small request beside one transfer up", Reference: &idle, Limit: 10, Ours: t.besideUp.requests(small)},
		{Name: "that transfer up, " + bulk, Reference: &up, Limit: 1.66, Ours: t.besideUp.transfers("beside a request every " + requestPause.String())},
		{Name: "small request beside one transfer down", Reference: &idle, Limit: 10, Ours: t.besideDown.requests(small)},
		{Name: "that transfer down, " + bulk, Reference: &down, Limit: 1.66, Ours: t.besideDown.transfers("beside a request every " + requestPause.String())},
		{Name: "small request beside a stalled reader", Reference: &idle, Limit: 1.5, Ours: t.stalledEcho.requests(small)},
		{Name: "one stream down beside a stalled reader, " + bulk, Reference: &down, Limit: 1.5, Ours: t.stalledDown.transfers("bight run")},
		{Name: fmt.Sprintf("%d flows at once: the slowest", crowdFlows), Reference: &middle, Limit: 2,
			Ours: durations(fmt.Sprintf("%s down on each of them, from when all are asked for", size(crowdBytes)), t.crowd.each(1))},
	}
}

// quantile of no duration is 0.
func quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[int(q*float64(len(sorted)-1))]
}
