# Two commands for a newcomer: `make demo` and `make test`. Each sets up .venv first.
PYTHON ?= python3.11
BIN := .venv/bin
# The folder of the data set that `make bench` trains on.
CAMVID ?= CamVid
# The folder of LCBench's surrogate, model.onnx and its two JSON files, from YAHPO-Gym: https://github.com/slds-lmu/yahpo_data
LCBENCH ?= lcbench

# Some machines tell Python not to keep what it has compiled. Torch and Ray take seconds to compile, in each process anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check bench soak setup clean

setup: .venv/.installed

# --no-compile: Python compiles what it imports when it does so, a small part of what is installed; all of it takes a minute.
.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --no-compile --constraint constraints.txt --editable ".[dev]"
	touch $@

# Everything small, so that it ends within 3 minutes on 2 cores; the same command as for real data.
demo: setup
	$(BIN)/ensemble-tune run --data synthetic --out runs/demo --size 60x80 --folds 2 --seed 0 \
	    --base-space demo --base-trials 4 --base-epochs 10 --scheduler none \
	    --meta-space meta-small --meta-trials 3 --meta-epochs 5

test: setup
	$(BIN)/python -m pytest -n 2

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_floors.py

# imagenet_encoder.py is not among it, since it measures nothing: ensemble_gain.py fetches its encoder's weights by it.
bench: setup
	$(BIN)/python benchmarks/layers.py
	$(BIN)/python benchmarks/parts.py $(CAMVID)
	$(BIN)/python benchmarks/search_overhead.py $(CAMVID)
	$(BIN)/python benchmarks/memory.py $(CAMVID)
	$(BIN)/python benchmarks/memory_estimates.py
	$(BIN)/python benchmarks/packing.py
	$(BIN)/python benchmarks/slots.py
	$(BIN)/python benchmarks/callbacks.py
	$(BIN)/python benchmarks/ledger.py
	$(BIN)/python benchmarks/simulator.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/pip install -q --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python benchmarks/quality.py $(LCBENCH) --set main
	$(BIN)/python benchmarks/quality.py $(LCBENCH) --set more --tasks 6 --seeds 3
	$(BIN)/python benchmarks/quality.py $(LCBENCH) --set gp --seeds 1
	$(BIN)/python benchmarks/quality.py $(LCBENCH) --set base --seeds 2
	$(BIN)/python benchmarks/quality_tune.py $(LCBENCH)
	$(BIN)/python benchmarks/precision.py $(CAMVID)
	$(BIN)/python benchmarks/two_stage.py $(CAMVID)
	$(BIN)/python benchmarks/twenty_minutes.py $(CAMVID) --size 90x120
	$(BIN)/python benchmarks/small_objects.py $(CAMVID)
	$(BIN)/python benchmarks/splits.py $(CAMVID)
	$(BIN)/ensemble-tune search base --data $(CAMVID) --out runs/curves --size 60x80 --space base-small \
	    --trials 24 --epochs 9 --sampler random --scheduler none
	$(BIN)/python benchmarks/start_up.py runs/curves
	$(BIN)/python benchmarks/own_curves.py runs/curves 300
	$(BIN)/python benchmarks/own_samplers.py $(CAMVID) --out runs/samplers
	$(BIN)/python benchmarks/ensemble_gain.py $(CAMVID) --out runs/ensemble_gain
	$(BIN)/python benchmarks/meta_defaults.py $(CAMVID) runs/ensemble_gain --out runs/meta_defaults

# Kills drivers and workers at random moments, 300 times, then reads 100,000 damaged files; half an hour and more.
soak: setup
	$(BIN)/python tests/tune/soak.py 300 0
	$(BIN)/python tests/fuzz/fuzzing.py 100000 2

clean:
	rm -rf .venv build *.egg-info
