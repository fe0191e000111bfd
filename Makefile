# Everything that Spillway needs beyond Rust, Python 3 with pip, a C compiler and make is fetched into target/.

.DEFAULT_GOAL := help
.PHONY: help demo test check bench simulate wasm newest release clean targets core-on-wasm32 purity instructions

TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
MODULE := $(TARGET)/wasm32-wasip1/release/spillway.wasm
FLOOR := $(TARGET)/wasm32-wasip1/release/floor.wasm
# A larger module costs start-up time and memory in every worker of every Envoy.
MODULE_LIMIT_BYTES := 700000
# No path of this machine gets into the module, so that one commit is the same bytes wherever it is built.
REMAP := --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo --remap-path-prefix=$(CURDIR)=/spillway
# What the module may ask of its host: all that Envoy offers.
IMPORTS := env.proxy_,wasi_snapshot_preview1.
CORE := --no-default-features --target wasm32-unknown-unknown --lib

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

demo: wasm ## real Envoy, three mock backends and a load, for about 20 seconds
	@envoy=$$(tools/envoy) && SPILLWAY_WASM="$(MODULE)" SPILLWAY_ENVOY="$$envoy" \
	cargo run --locked --release --package demo

test: wasm core-on-wasm32 ## the core on wasm32, then everything natively and in real Envoy
	@envoy=$$(tools/envoy) && node=$$(tools/node) && \
	python_sdk=$$(python3 tools/python-sdk) && node_sdk=$$(SPILLWAY_NODE="$$node" tools/node-sdk) && \
	SPILLWAY_WASM="$(MODULE)" SPILLWAY_ENVOY="$$envoy" SPILLWAY_NODE="$$node" SPILLWAY_NODE_SDK="$$node_sdk" \
	SPILLWAY_PYTHON="$$(command -v python3)" SPILLWAY_PYTHON_SDK="$$python_sdk" \
	cargo test --locked --workspace --no-fail-fast

bench: wasm ## what Spillway costs beside bare Envoy; BENCH=--quick, --write (into the docs), --memory, --peers
	@cargo build --locked --release --target wasm32-wasip1 --package floor
	@envoy=$$(tools/envoy) && \
	cargo run --locked --release --package bench -- --envoy "$$envoy" --module "$(MODULE)" --floor "$(FLOOR)" $(BENCH)

simulate: ## Spillway and others in virtual time; into docs/routing.md, or with SIMULATE='--random 1000'
	@cargo run --locked --profile simulate --package simulator -- $(or $(SIMULATE),--write)

check: targets purity ## format, lints, the boundary of the core, documentation, the crates
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --target wasm32-wasip1 --lib -- -D warnings
	cargo clippy --locked $(CORE) -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps --document-private-items
	@tools/deny

wasm: targets ## the module that Envoy loads
	@RUSTFLAGS="$(REMAP) $$RUSTFLAGS" cargo build --locked --release --target wasm32-wasip1 --lib
	@python3 tools/wasm-imports $(IMPORTS) $(MODULE)
	@size=$$(wc -c < $(MODULE) | tr -d ' '); echo "$(MODULE): $$size bytes"; \
	test "$$size" -le $(MODULE_LIMIT_BYTES) || { echo "more than $(MODULE_LIMIT_BYTES) bytes" >&2; exit 1; }

newest: ## the module with the newest stable Rust, too: what the pinned one hides breaks here first
	@rust=$$(tools/newest-rust) || exit 1; test -n "$$rust" || exit 0; \
	PATH="$$rust:$$PATH" cargo build --locked --release --target wasm32-wasip1 --lib \
		--target-dir "$(TARGET)/newest" && \
	python3 tools/wasm-imports $(IMPORTS) "$(TARGET)/newest/wasm32-wasip1/release/spillway.wasm"

release: wasm ## what is published: module, checksum, image, in target/release-files; see RELEASE.md
	@python3 tools/release $(MODULE) "$(TARGET)/release-files"

clean: ## remove everything that was built or fetched
	cargo clean
	rm -rf target

# The core's own tests, compiled as Envoy's sandbox would have it: 32 bits, no threads, no clock.
core-on-wasm32: targets
	@node=$$(tools/node) && runner=$$(tools/wasm-bindgen-test-runner) && \
	PATH="$$(dirname "$$node"):$$PATH" CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER="$$runner" \
	tools/tally cargo test --locked $(CORE)

# The core needs no host. The test binary is what is looked at: it keeps all of the core, a library only
# what it exports. Its imports are those of the test runner.
purity: targets
	@tests=$$(cargo test --locked $(CORE) --no-run --message-format=json | python3 tools/artefact.py) && \
	python3 tools/wasm-imports __wbindgen_ "$$tests"

# The instructions of a request, counted; more than before are an error.
instructions:
	@tests=$$(cargo test --locked --profile instructions --test filter --no-run --message-format=json | \
	python3 tools/artefact.py) && \
	tools/instructions "$$tests"

# With rustup, rust-toolchain.toml has the compiler and its targets installed by the first cargo; this is for
# machines on which that is switched off.
targets:
	@rustc --version >/dev/null || rustup toolchain install
	@for target in wasm32-wasip1 wasm32-unknown-unknown; do \
		test -d "$$(rustc --print target-libdir --target $$target)" || \
		{ echo "adding the Rust target $$target"; rustup target add $$target; } || exit 1; \
	done
