// Package nodeagent serves the Intercepts and the Releases of one node: it opens gates in
// the pods that they select, and takes them away.
//
// The main type is [Agent]; its Run follows the Intercepts and Releases of the cluster and
// the pods of the node. What should be served where is decided by pure functions of these,
// plan and shares. Each pod with something to serve has a post, a goroutine that brings
// the pod's gate to what is wanted, the latest winning. Nothing of it is in the way of any
// traffic unless a laptop has joined a rule or a release runs, and nothing has to be
// cleaned up when the agent is killed.
//
// A release with pods of its stable version here is on trial: each outcome of a request is
// given to a judge, who may take all requests from the new version at once, on this node,
// and is then obeyed on every other. What was counted goes on to the controller, which
// judges by all nodes together. Nobody waits for it. The package runs on Linux only.
package nodeagent
