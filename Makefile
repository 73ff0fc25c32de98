# World Models in TensorFlow. Every target sets up what it needs; Python 3.11 and make are enough.

WORKDIR ?= runs/quickstart
SEED ?= 0
PORT ?= 8500
PRETRAINED := pretrained/car_racing
PYTHON ?= python3.11 python3 python
PYTEST_ARGS ?=
JOBS ?= 2
TARGET ?= localhost:$(PORT)
MODEL ?= planner
CLIENTS ?= 8
SECONDS ?= 30
COMPARE_ARGS ?=
SEEDS ?= 0 1 2 3 4
QUICKSTART_SEEDS_ARGS ?=
SOAK_SECONDS ?= 900
LOAD_ARGS ?=
BENCH ?= $(sort $(patsubst benchmarks/%.py,%,$(filter-out benchmarks/_% benchmarks/learning.py benchmarks/quickstart_seeds.py,$(wildcard benchmarks/*.py))))
BENCH_RESULTS ?= build/bench

VENV := .venv
PY := $(VENV)/bin/python
# By file: what a file's tests share is made once.
PYTEST = $(PY) -m pytest tests -n $(JOBS) --dist loadfile --no-loadscope-reorder
# A copy of the requirements that `.venv` holds; it is written last, so an interrupted set-up is
# done over.
STAMP := $(VENV)/requirements.txt
# PyTorch and JAX, for benchmarks alone, do not go together with what is pinned.
PEERS := .venv-bench
PEERS_STAMP := $(PEERS)/requirements.txt

export TF_CPP_MIN_LOG_LEVEL ?= 3
export PYGAME_HIDE_SUPPORT_PROMPT ?= 1

.PHONY: help setup quickstart quickstart-dreamer serve test test-slow lint format bench bench-setup learning quickstart-seeds compare loadtest conformance fuzz faults soak bazel-test clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 28
	@echo "  WORKDIR=$(WORKDIR) SEED=$(SEED) PORT=$(PORT) PYTEST_ARGS= BENCH=\"$(BENCH)\""

setup: $(STAMP) ## make .venv from requirements.txt (PYTHON= names a Python 3.11)

$(STAMP): requirements.txt
	@if cmp -s requirements.txt $(STAMP); then touch $(STAMP); exit; fi; \
	found=; \
	for python in $(PYTHON); do \
	  "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' \
	    2>/dev/null && found=$$python && break; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "make setup: none of these is a Python 3.11 with the venv module: $(PYTHON)." >&2; \
	  echo "Install it (Debian: apt-get install python3.11-venv), or name one:" >&2; \
	  echo "  make setup PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	echo "Installing requirements.txt into $(VENV): some minutes the first time."; \
	"$$found" -m venv --clear $(VENV) \
	  && $(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt \
	  && $(PY) -m pip check \
	  && cp requirements.txt $(STAMP).tmp && mv $(STAMP).tmp $(STAMP)

quickstart: setup ## collect, train, dream, serve and drive (WORKDIR=, SEED=)
	$(PY) -m trainers.quickstart --workdir="$(WORKDIR)" --seed=$(SEED)

quickstart-dreamer: setup ## the same by Dreamer: an RSSM, from random actions (WORKDIR=, SEED=)
	$(PY) -m trainers.quickstart --preset=dreamer --seed=$(SEED) \
	  --workdir="$(if $(filter file,$(origin WORKDIR)),runs/dreamer,$(WORKDIR))"

serve: setup ## serve a run's exports over gRPC, or the pretrained ones (WORKDIR=, PORT=)
	@export="$(WORKDIR)/export"; \
	if [ ! -d "$$export" ] && [ "$(origin WORKDIR)" = file ]; then export=$(PRETRAINED); fi; \
	models=$$(cd "$$export" 2>/dev/null && ls -d */ | tr -d /); \
	if [ -z "$$models" ]; then \
	  echo "make serve: no models in $$export. Run make quickstart WORKDIR=... first." >&2; exit 1; \
	fi; \
	export=$$(cd "$$export" && pwd) && mkdir -p build && { \
	  echo 'model_config_list {'; \
	  for model in $$models; do \
	    echo "  config { name: '$$model' base_path: '$$export/$$model' model_platform: 'tensorflow' }"; \
	  done; \
	  echo '}'; \
	} > build/models.config; \
	echo "Serving $$export. To drive with it, in another terminal:"; \
	echo "  $(PY) -m trainers.evaluate --agent=grpc://localhost:$(PORT)/planner --episodes=1" \
	  "--render=drive.gif"; \
	exec $(PY) -m serving.server --port=$(PORT) --model_config_file=build/models.config

test: setup ## every test but the slow ones, side by side (PYTEST_ARGS="-k search", JOBS=0: in turn)
	$(PYTEST) $(PYTEST_ARGS)

test-slow: setup ## the slow ones: whole runs, kills at every write, learning at full length
	$(PYTEST) -m slow --timeout=3600 $(PYTEST_ARGS)

lint: setup ## ruff, rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: setup ## rewrite the code to ruff's format, and fix what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: setup ## every benchmark (BENCH="dream vae", BENCH_RESULTS=folder for JSON and plots)
	@for name in $(BENCH); do \
	  echo "== $$name"; \
	  $(PY) -m benchmarks.$$name --output="$(BENCH_RESULTS)/$$name.json" || exit; \
	done
	@$(PY) -m benchmarks._plots --results="$(BENCH_RESULTS)"

bench-setup: setup $(PEERS_STAMP) ## PyTorch and JAX to compare with, in .venv-bench

$(PEERS_STAMP): requirements-bench.txt
	$(PY) -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	cp requirements-bench.txt $(PEERS_STAMP)

learning: setup ## train on several environments and seeds, one table (LEARNING_ARGS="--help")
	$(PY) -m benchmarks.learning $(LEARNING_ARGS)

quickstart-seeds: setup ## one table of quickstarts (SEEDS="0 1 2 3 4", QUICKSTART_SEEDS_ARGS="--help")
	$(PY) -m benchmarks.quickstart_seeds --seeds="$(SEEDS)" $(QUICKSTART_SEEDS_ARGS)

compare: setup ## ES, REINFORCE, PPO and imagination in a run's dream (WORKDIR=, COMPARE_ARGS=)
	$(PY) -m trainers.compare --workdir="$(WORKDIR)" --seed=$(SEED) $(COMPARE_ARGS)

loadtest: setup ## N clients against a server (TARGET=, MODEL=, CLIENTS=, SECONDS=, LOAD_ARGS=)
	$(PY) -m benchmarks.serving --target=$(TARGET) --model=$(MODEL) --clients=$(CLIENTS) \
	  --seconds=$(SECONDS) $(LOAD_ARGS)

# TARGET has a default for `loadtest`: without one given, the embedded server is tested.
conformance: setup ## every row of the serving contract (TARGET=, REST=, BASE=: another server)
	CONFORMANCE_TARGET="$(if $(filter-out file,$(origin TARGET)),$(TARGET))" \
	CONFORMANCE_REST="$(REST)" CONFORMANCE_BASE="$(BASE)" \
	  $(PY) -m pytest tests/serving/conformance_*_test.py $(PYTEST_ARGS)

fuzz: setup ## malformed and random requests against a server (FUZZ_ARGS="--requests=100000")
	$(PY) -m tests.serving.fuzz $(FUZZ_ARGS)

faults: setup ## break things on purpose, 13 minutes (FAULTS_SEED=, FAULTS_ARGS="--only=kills")
	$(PY) -m tests.faults $(FAULTS_ARGS)

soak: setup ## new versions every 10 s under load, each answer checked (WORKDIR=, SOAK_SECONDS=)
	$(PY) -m benchmarks.serving --soak=$(SOAK_SECONDS) --clients=$(CLIENTS) \
	  --export="$(WORKDIR)/export/controller" $(LOAD_ARGS)

bazel-test: setup ## the same tests by Bazel, which also holds the import rules
	bazel build //...
	bazel test //...

clean: ## remove the environments and caches; runs/ stays
	rm -rf $(VENV) $(PEERS) .pytest_cache .ruff_cache *.egg-info build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
