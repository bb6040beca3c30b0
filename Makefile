# make demo: set everything up in .venv and run the demonstration.
# make test: set everything up in .venv and run every check that CI runs.
# Needs Python >= 3.10 and make; PYTHON=python3.12 chooses another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check browser assets clean

demo: $(VENV)/installed
	$(BIN)/modelscope-reid demo assets

test: check browser
	$(BIN)/python -m pytest -m "" --numprocesses 2 --dist loadfile

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

browser:  # the tests of the page need Chromium, which is Debian's here
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -q >/dev/null \
			&& DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium fonts-liberation >/dev/null; } \
		|| echo "no Chromium here: the tests of the page will be left out (on Debian: sudo apt install chromium)"

assets: $(VENV)/installed
	$(BIN)/python -c "from pathlib import Path; from modelscope_reid.datasets.synthetic import draw_sample_crops; draw_sample_crops(Path('assets'))"

clean:
	rm -rf $(VENV) build dist *.egg-info

$(BIN)/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || \
		{ echo "$(PYTHON) is older than 3.10; run: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "$(PYTHON) cannot make virtual environments (on Debian: apt install python3-venv)"; exit 1; }

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[app]"
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@ $(VENV)/installed
