# Everything one does with a checkout. Needed: make and Rust; .ci/prepare installs or names what else is
# missing.

# Flags for what is run: make run ARGS='--cores 0-1', make bench ARGS='--only 1,2'
ARGS ?=
# Seeds that `make sim` tries; SEED=x replays one of them.
SEEDS ?= 1000
SEED ?=
# Which micro-benchmarks `make microbench` runs; all.
BENCH ?=
# How long `make fuzz` spends on each target.
FUZZ_SECONDS ?= 60

# How long `make soak` lasts. SEED=x chooses its faults again.
MINUTES ?= 10

.PHONY: run test test-js example sim canary bench soak overload microbench scale deb image check fmt clippy edges doc deny fuzz

# The server, on comet.toml.
run:
	@.ci/prepare run
	cargo run --release --bin comet -- --config comet.toml $(ARGS)

# Every test there is, the simulator's among them, and those of the TypeScript client.
test:
	@.ci/prepare test
	cargo test --workspace
	@.ci/test-js

# Those of the TypeScript client alone.
test-js:
	cargo build --bin comet
	@.ci/test-js

# A chat with live comments in the browser: docs/CLIENTS.md. Needs Node 20 or newer, and npm.
example:
	@.ci/prepare run
	cargo build --release --bin comet
	cd crates/comet-client/js && npm ci --no-audit --no-fund && \
		COMET_BIN=$(abspath $(or $(CARGO_TARGET_DIR),target)/release/comet) npm run example

# More seeds of the simulator. A failure prints the seed that replays it.
sim:
	cargo run --release -p comet-sim -- $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

# Puts known bugs back, one by one: the simulator has to find each of them.
canary:
	cargo test --release -p comet-sim --features canary --test canaries -- --nocapture

# What the project means to reach, and what is measured here: `comet-bench targets` starts servers and
# yardsticks itself, on two CPUs that should have nothing else to do, and takes about six minutes.
bench:
	@.ci/prepare run
	cargo build --release --bin comet --bin comet-bench
	$(or $(CARGO_TARGET_DIR),target)/release/comet-bench targets $(ARGS)

# What attacks on a server cost the clients that are connected: latencies as ratios to quiet times of the same run.
overload:
	@.ci/prepare run
	cargo build --release --bin comet --bin comet-bench
	$(or $(CARGO_TARGET_DIR),target)/release/comet-bench overload $(ARGS)

# Churn, pushes and faults at random from a seed on a real server with a real `comet logic`. It ends with the first
# thing that does not hold; Ctrl-C ends it after the phase under way.
soak:
	@.ci/prepare run
	cargo build --release --bin comet --bin comet-bench
	$(or $(CARGO_TARGET_DIR),target)/release/comet-bench soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

# What a frame, a push and a message between cores cost without a kernel under them; BENCH=room_walk
# measures only what has that in its name. `make test` runs each of them once.
microbench:
	cargo bench -p comet-proto -p comet-core -p comet-mesh --bench codec --bench shard --bench mesh -- $(BENCH)

# What grows with the number of shards: memory of a connection, and the cost of connects, joins, pushes and
# broadcasts, with a million connections on 1 to 64 shards, without a kernel under them. Takes a few minutes and
# up to 2 GB.
scale:
	cargo bench -p comet-core --bench scale

# The Debian package, in target/packages: programs, units, configuration, manual, alerts and dashboard. Needs dpkg-deb.
deb:
	@.ci/prepare run
	cargo build --release --bin comet --bin comet-bench
	crates/comet/packaging/deb

# The container image, in target/packages: a tar for `docker load` and `podman load`. Needs neither of them.
image:
	@.ci/prepare run
	cargo build --release --bin comet
	crates/comet/packaging/image

# What has to hold before a commit, besides the tests.
check: fmt clippy edges doc

fmt:
	cargo fmt --all --check

clippy:
	cargo clippy --workspace --all-targets -- -D warnings

# Which crate may depend on what, and where unsafe code may be.
edges:
	.ci/edges

doc:
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps

# Licenses and sources of what is linked. Needs `cargo install cargo-deny`.
deny:
	cargo deny check licenses bans sources

# Arbitrary bytes and events for each target of crates/fuzz, or for TARGETS="tls frame". Needs
# `cargo install cargo-fuzz`; RUSTC_BOOTSTRAP spares a nightly toolchain.
TARGETS ?= frame push_frame websocket text upgrade proxy tls record shard world token query config
fuzz:
	for target in $(TARGETS); do \
		RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir crates/fuzz $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done
