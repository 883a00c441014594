// Package nodeagent serves the Intercepts of one node: it opens gates in the pods
// that they select, and takes them away.
//
// The main type is [Agent]; its Run follows the Intercepts of the cluster and the pods
// of the node. What should be served where is decided by a pure function of these,
// plan. Each pod with an Intercept has a post, a goroutine that brings the pod's gate
// to what the plan says, the latest plan winning. Nothing of it is in the way of any
// traffic unless a laptop has joined a rule, and nothing has to be cleaned up when the
// agent is killed. It runs on Linux only.
package nodeagent
