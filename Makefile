# Everything runs in .venv; `make demo` and `make test` set it up when it is not there.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
TRAINING := runs/demo_training

.PHONY: setup demo test test-fast lint bench clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[pipelines,loader,trainer,gcp,dask,dev]'
	touch $@

demo: setup
	$(BIN)/python -m pipelines run configs/demo.yaml --output $(DEMO)
	$(BIN)/python -m loader inspect $(DEMO)
	$(BIN)/python -m pipelines explain $(DEMO) --a-drop
	$(BIN)/python -m loader show $(DEMO) --view 256 --position 6
	$(BIN)/python -m loader trace $(DEMO) --view 256 --position 6 --token 10
	$(BIN)/python -m loader stats $(DEMO) --view 256
	rm -rf $(TRAINING)
	# Killed once, after its 60th step; `launch` starts it again from the last checkpoint.
	( until grep -qs '"step": 60,' $(TRAINING)/metrics.jsonl; do sleep 0.5; kill -0 $$$$ || exit 1; done; \
	  kill -9 $$(sed 's/.*"pid": \([0-9]*\).*/\1/' $(TRAINING)/.lock) ) & \
	$(BIN)/python -m trainer launch configs/train_demo.yaml --processes 1
	$(BIN)/python -m trainer checkpoints list $(TRAINING)/checkpoints
	$(BIN)/python -m trainer generate $(TRAINING) --prompt "def main(" --tokens 40

test: setup
	$(BIN)/python -m pytest

test-fast: setup
	$(BIN)/python -m pytest -m 'not slow'

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

bench: setup
	$(BIN)/python benchmarks/order_at_scale.py
	$(BIN)/python benchmarks/prepare.py
	$(BIN)/python benchmarks/dedup_quality.py

clean:
	rm -rf $(VENV) runs build *.egg-info
