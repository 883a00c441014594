// Package conformance has the official conformance tests of Gateway API judge our data
// plane, as the Gateway that package doors makes of it, and Traefik by the same set-up,
// as a check that this is right. It is tests alone, with the tag gateway; make
// test-gateway runs them on a cluster of their own.
//
// Of the official tests those are run that are about what a release does with requests:
// sharing by weights, matching, and copying. Everything is reached through the API
// server, never by an address of the cluster.
package conformance
