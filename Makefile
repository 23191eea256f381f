# `make demo` and `make test` work on a fresh machine with Python 3.11 and make. `make check` is what CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 2

.PHONY: demo test laws check lint wheel docs clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,zoo,ray,lightning,executorch,onnx]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps tosa-tools==2026.8.0  # it wants an older numpy
	touch $@

demo: $(VENV)/installed
	rm -rf demo-run
	$(BIN)/shrinknet demo --out demo-run

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal --jaxtyping-packages=shrinknet,beartype.beartype

laws: $(VENV)/installed
	SHRINKNET_LAWS=laws OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal --jaxtyping-packages=shrinknet,beartype.beartype -m hypothesis tests/laws

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

wheel: $(VENV)/installed
	rm -rf build dist
	$(BIN)/python -m build --quiet --wheel
	$(BIN)/python tests/check_wheel.py dist/*.whl

docs: $(VENV)/installed
	$(BIN)/mkdocs build

check: lint test wheel demo

clean:
	rm -rf $(VENV) build dist demo-run site
