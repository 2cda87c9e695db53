# SPDX-License-Identifier: Apache-2.0
# `make` lists what there is. Each target does what it needs first and skips what is done;
# anything longer than a few lines is a script in dev/.

IMAGE := target/image
export CUBE_CACHE ?= /var/cache/cube

.DEFAULT_GOAL := help
.PHONY: help setup build image images test test-pure test-vm test-e2e demo bench doctor fmt lint clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install and unpack what this machine lacks (as root, on Debian 12 or later)
	@dev/setup

# What runs on every start is static: the dynamic loader is half the time of its exec. The VMM stays at a
# random address, because a guest attacks it; the shim, which executes itself twice, does not move itself first.
STATIC := -C target-feature=+crt-static
build: setup ## the programs, optimised: target/release (the agent comes with the image)
	@dev/step build cargo build --release --locked -p cube-cli -p cube-e2b -p cube-snapshotter --bins
	@dev/step vmm cargo rustc --release --locked -p cube-vmm --bin cube-vmm -- $(STATIC)
	@dev/step shim cargo rustc --release --locked -p containerd-shim-cube-v1 --bin containerd-shim-cube-v1 -- \
		$(STATIC) -C relocation-model=static

image: build ## the guest image: kernel, modules, agent
	@dev/step "guest image" agent/image/build $(IMAGE)

images: setup ## the container images that tests and the demonstration use
	@dev/images

test: build image images ## everything CI runs: all tests, in the development VM where KVM is not usable
	@dev/test

test-pure: setup ## tests that need neither KVM nor root
	@dev/test pure

test-vm: build image ## tests of virtual machines
	@dev/test vm

test-e2e: build image images ## tests with real containerds
	@dev/test e2e

demo: build image images ## a Python container in its own microVM, from nothing
	@dev/demo

bench: build image images ## measure: starts, processes, bursts and idle cost beside runc's (N=20: that many samples)
	@dev/bench $(if $(N),-n $(N)) $(WHAT)

doctor: build ## what this host can and cannot do, and how to mend it
	@target/release/cube doctor

fmt: ## format the code
	@cargo fmt --all

lint: ## format, clippy, the tidy rules and, with cargo-deny, licences and sources
	@dev/step format cargo fmt --all --check
	@dev/step clippy cargo clippy --workspace --all-targets --locked -- -D warnings
	@dev/step tidy cargo test --quiet --locked -p cube-tests --test tidy
	@if cargo deny --version >/dev/null 2>&1; then \
		dev/step deny cargo deny --offline --locked --log-level error check bans licenses sources; \
	else echo "deny: skipped, there is no cargo-deny (cargo install --locked cargo-deny)"; fi

clean: ## remove what all of this made: target, caches, development state
	@dev/clean
