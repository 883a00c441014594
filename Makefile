# From a fresh machine: `make demo` runs the example application, `make test` runs every test.
export CGO_ENABLED ?= 0
KUBE := v1.36.3
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
STAMP := k8s.io/component-base/version
KUBE_FLAGS := -s -w -X $(STAMP).gitVersion=$(KUBE) -X $(STAMP).gitMajor=1 -X $(STAMP).gitMinor=36

.PHONY: demo test test-gateway build packages lint bench simulate generate clean

demo: packages build ## the example application, running and live
	@scripts/demo

test: packages build ## everything, on a cluster of its own
	@scripts/test

test-gateway: packages build ## Traefik, and the official conformance tests of Gateway API, on a cluster of their own
	@scripts/test-gateway

build: ## bin/bight, bin/bight-outer, bin/bight-agent, bin/bight-kube (the first time takes about eight minutes on two cores)
	@scripts/build "$(VERSION)" "$(KUBE_FLAGS)"

packages: ## the Debian packages that the embedded cluster needs
	@scripts/packages containerd runc nftables containernetworking-plugins git

lint: ## gofmt, go vet and staticcheck, in every module
	@scripts/lint

bench: packages build ## speed, as ratios against references in the same run
	@scripts/bench

RUNS ?= 100000
simulate: ## verdicts of releases, simulated RUNS times in each world, beside what the peers would do (hours)
	@BIGHT_VERDICT_RUNS=$(RUNS) go test -p 1 -count 1 -timeout 6h -v -run 'Healthy|Found|Certif|Peers|BadPod|Proxies|Clumps' ./internal/release/verdict

generate: ## generated files that are kept in git
	@go generate ./...

clean: ## what was built; the embedded cluster is left alone (bin/bight cluster delete)
	@rm -rf bin
