// Package kube reaches a cluster: it reads the configuration that kubectl
// reads, refuses contexts that do not look like development, says in plain
// words why a request failed and which right is missing, and opens raw byte
// streams to ports of pods.
//
// The main type is [Cluster], which [Load] makes without talking to the
// cluster. It is read only and safe for concurrent use; all its clients share
// one HTTP/2 connection. The package keeps no state and installs nothing.
package kube
