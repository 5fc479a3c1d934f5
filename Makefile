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
	rm -rf $(TRAINING)
	$(BIN)/python -m trainer run configs/train_demo.yaml
	$(BIN)/python -m trainer generate $(TRAINING) --prompt "def main(" --tokens 40

test: setup
	$(BIN)/python -m pytest

test-fast: setup
	$(BIN)/python -m pytest -m 'not slow'

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/order_at_scale.py
	$(BIN)/python benchmarks/prepare.py
	$(BIN)/python benchmarks/dedup_quality.py

clean:
	rm -rf $(VENV) runs build *.egg-info
