// Package e2e has the tests of whole clusters: they run bight-kube as a person
// does and look at the machine before, while and after. They need root, Linux and
// the programs that a cluster needs:
//
//	BIGHT_BIN_DIR=../bin CGO_ENABLED=0 go test -tags e2e ./e2e
//
// Each test has a state directory and a kubeconfig of its own.
package e2e
