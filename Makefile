# Each target sets up .venv by itself the first time.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TENSORRT_READY := $(VENV)/.tensorrt-ready
MODELS := $(VENV)/models
# Of PyTorch's CPU build; empty: pip's usual index.
TORCH_INDEX ?=

.PHONY: demo test test-models test-tensorrt fuzz faults bench bench-predict bench-search check docs wheel format schemas clean

demo: $(READY)  ## the whole job on this machine: measure, search, train, verify, report
	$(BIN)/lightnas-edge demo

# Files of tests in parallel, with one thread for each: threads that wait for each other on busy cores cost more than they give.
test: $(READY)  ## the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# Installed apart, so that the tests need it nowhere else. Where it cannot be installed there is nothing to test with.
test-tensorrt: $(READY)  ## graphs against NVIDIA's own builder; no GPU needed, 200 MB to download
	@test -e $(TENSORRT_READY) \
	  || { $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .[test-tensorrt] && touch $(TENSORRT_READY); } \
	  || echo "NVIDIA's builder cannot be installed here (Python 3.11 or newer on x86_64 Linux is needed): nothing tested"
	@test ! -e $(TENSORRT_READY) || OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/tensorrt_rtx --numprocesses auto --maxprocesses 4 --dist loadgroup

# The wheel is unpacked and not installed. Without it its three models are skipped; the others are here or are exported.
test-models: $(READY)  ## real ONNX files through profile, verify and report; 15 MB to download
	@ls $(MODELS)/rapidocr_onnxruntime-1.4.4-*.whl >/dev/null 2>&1 \
	  || $(BIN)/python -m pip download --quiet --no-deps --dest $(MODELS) rapidocr-onnxruntime==1.4.4 \
	  || echo "rapidocr-onnxruntime 1.4.4 cannot be downloaded here: its models are skipped"
	LIGHTNAS_EDGE_MODEL_WHEELS=$(MODELS) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/models_online -vv -rs --numprocesses 2

fuzz: $(READY)  ## a million damaged files for every reader together: none may end in a traceback
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz

faults: $(READY)  ## a hundred campaigns, each with a fault at a random moment: nothing lost, doubled, hung or left changed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults

bench: $(READY)  ## benchmarks: ratios and counts
	$(BIN)/python -m benchmarks

bench-predict: $(READY)  ## predictors against published measurements: ../shared/data, or DATA=FOLDER
	$(BIN)/python -m benchmarks.predict

bench-search: $(READY)  ## the search against known truth, from stored runs; steps and memory against the plain loop
	$(BIN)/python -m benchmarks search search_step

check: $(READY)  ## lint, formatting, types, layering, the tutorial, the documentation site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layering.py
	$(MAKE) docs

# Strict: a broken link, a page without a place and a cell of the tutorial that fails end it.
docs: $(READY)  ## the documentation site, in build/site; runs the tutorial, one to three minutes
	NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open build/site/index.html"

wheel:  ## the package, in dist
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schemas: $(READY)  ## docs/schemas, from the records
	$(BIN)/python -m lightnas_edge.records docs/schemas

# torch by its exact version: any other way of asking for it brings gigabytes of CUDA libraries on many machines.
$(READY): setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; found " + sys.version.split()[0] + ". Set PYTHON=/path/to/python3.11")'
	@echo "setting up $(VENV) (once; a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .[dev]
	@touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info
