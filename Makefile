# Every target works in a fresh clone on a machine that has only Go, gcc, make and
# git; what else it needs it installs from the distribution, or says what is missing.

.DEFAULT_GOAL := help
.PHONY: help build kernel image demo test lint bench soak clean

help: ## this list
	@sed -n 's/^\([a-z]*\): .*## /\1\t/p' Makefile | expand -t 10

build: ## bin/banger, bin/bangerd, bin/banger-agent
	@scripts/build

kernel: ## the guest kernel, into the build cache
	@kernels/build

image: ## the Debian 12 development image, into the build cache
	@images/build

demo: ## prepare everything and run a command in a new VM
	@scripts/demo

test: ## prepare everything, check the code, run all tests, real VMs included
	@scripts/test

lint: ## golangci-lint
	@scripts/lint

bench: ## benchmarks
	@scripts/with-artifacts go test -run '^$$' -bench . -timeout 60m ./test/bench/...

soak: ## long tests: storms with real VMs, then each fuzz target for a minute
	@scripts/soak

clean: ## remove what was built in the checkout; the build cache stays
	@rm -rf bin internal/embedded/data/banger-agent internal/embedded/data/kernel.tar.zst
