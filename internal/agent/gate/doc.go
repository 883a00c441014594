// Package gate serves a pod that somebody else deployed: it is for such a pod what
// the agent is for a pod of our own, without being in it.
//
// The main type is [Gate]. It listens on the loopback of the pod's network namespace,
// where a port-forward to the pod leads, and takes sessions of package stream there.
// Whoever has the token of a [Grant] may use what that allows: join its rule, so that
// requests for the pod come to a laptop, and read the environment and files of the
// pod's process and use its network. The gate's owner may share the requests for a port
// between versions of the service, by [Gate.Split]. While no rule and no split is in
// force nothing is in the way of the pod's traffic; while one is, connections come here
// by a door of package node, which the kernel undoes when this process dies.
//
// The package knows nothing of Kubernetes: who may do what is given to Gate.Set. It
// needs what package node needs, and runs on Linux only.
//
// All exported methods are safe for concurrent use. All goroutines of a gate have
// ended when Close returns.
package gate
