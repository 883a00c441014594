package node

import "fmt"

// HostNetns opens the network namespace of the pod's node: that of the process that
// started the pod, the runtime's.
func (p *Pod) HostNetns() (*Netns, error) {
	holder := p.Sandbox
	if holder == nil {
		holder = &p.Containers[0]
	}
	ns, err := OpenNetns(Process{PID: holder.Parent, proc: p.proc}.path("ns", "net"))
	if err != nil {
		return nil, fmt.Errorf("the node of pod %s: %w", p.UID, err)
	}
	if err := holder.check(); err != nil {
		ns.Close()
		return nil, fmt.Errorf("the node of pod %s: %w", p.UID, err)
	}
	return ns, nil
}
