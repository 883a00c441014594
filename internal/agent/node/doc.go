// Package node is the kernel's part of the node agent: how traffic of a pod that
// somebody else deployed is brought to this process, and its environment read,
// without touching the pod.
//
// The main type is [Door]: a listener in the pod's network namespace, and rules
// there that bring new connections to it. The rules are TPROXY rules in a table
// of our own. They give a connection away only while the door's socket listens:
// when this process dies, the kernel hands connections to the app as if the
// rules did not exist, and then removes them (the table belongs to our netlink
// socket). Connections that exist stay where they are, on both edges.
//
// [Proc] finds a pod's processes by their cgroups, so no runtime's socket is
// needed; [Netns] makes sockets in a pod's network namespace. The package runs
// no programs. It needs the host's PID namespace and the capabilities NET_ADMIN,
// SYS_ADMIN and SYS_PTRACE, and runs on Linux only. A process that is in the pod's
// namespaces itself needs no SYS_ADMIN: [OwnNetns] and [Proc.Beside] are for it.
//
// All exported methods are safe for concurrent use. The package starts
// goroutines only for a door's listeners, and Close waits for those, and for
// calls in another namespace, which the caller waits for.
package node
