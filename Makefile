# The two commands that matter: `make demo` and `make test`. `make help` lists the rest.
# Needs make and Python 3.11 or newer; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# cpu or cuda. Without a choice, the one made last time stays.
TORCH ?= $(or $(shell cat $(VENV)/.torch 2>/dev/null),cpu)
READY = $(VENV)/.ready-$(TORCH)
TORCH_PIN := $(shell grep '^torch==' constraints.txt)
CPU_WHEELS := https://download.pytorch.org/whl/cpu
ASSETS := src/surgvivqa_audio/assets/nano
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Two busy processes with two threads each on two cores are many times slower than one.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint unit integration browser soak nano reproduce clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY) ## make .venv with everything below needs (TORCH=cpu or TORCH=cuda)

demo: $(READY) ## three spoken questions about a clip the model has not seen
	$(BIN)/surgvivqa demo

test: lint unit integration ## what continuous integration runs: lint, types, all tests

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(READY) ## fast tests, no network, no weights
	$(BIN)/python -m pytest tests/unit

integration: $(READY) ## tests that need the nano model or several processes; real weights where present
	$(BIN)/python -m pytest tests --ignore=tests/unit

browser: $(READY) ## the demo page in a real Chromium; RUNS=20 repeats it and writes benchmarks/browser.json
	@$(BIN)/python -c 'import playwright' 2>/dev/null || $(PIP) install playwright -c constraints.txt
	@command -v "$(or $(CHROMIUM),chromium)" >/dev/null || command -v google-chrome >/dev/null || \
	  $(BIN)/python -m playwright install chromium || true  # what is still missing, the test names
	SURGVIVQA_BROWSER=1 $(BIN)/python $(if $(RUNS),tests/browser/repeat.py --runs $(RUNS) --json \
	  benchmarks/browser.json,-m pytest tests/browser)

soak: $(READY) ## long proofs: kills at every write boundary, and the like (ONLY=name for one)
	$(BIN)/python tests/soak.py --json benchmarks/soak.json $(if $(ONLY),--only $(ONLY))

# Finished stages are kept, and a killed one goes on where it was; with another recipe than it was begun with,
# it says so instead. The ear is trained on one core while the eye is trained on the other, and so that both
# take equally long, the ear's core also renders the clips that nobody needs before the eye is done; what
# follows takes both.
STAGE := $(BIN)/surgvivqa train recipes/nano
nano: $(READY) ## train the nano model through every stage (70 to 90 minutes on 2 cores)
	$(MAKE) -j2 nano-heard nano-seen
	$(STAGE)/vlm.yaml --resume
	$(STAGE)/align.yaml --resume
	$(STAGE)/finetune.yaml --resume
	rm -rf runs/nano/bundle
	$(STAGE)/bundle.yaml
	rm -rf $(ASSETS) && cp -r runs/nano/bundle $(ASSETS)

.PHONY: nano-heard nano-seen
nano-heard: $(READY) ## the ear of `make nano`, and what it makes of the questions that alignment puts
	$(STAGE)/asr.yaml --resume
	$(STAGE)/align.yaml --fill-cache --set threads=1
	$(STAGE)/vlm.yaml --fill-cache --set render=[unseen,clips16]
nano-seen: $(READY) ## the clips and the eye of `make nano`, and what it makes of those that the language model reads
	$(STAGE)/vlm.yaml --fill-cache --set threads=1

# More options by ARGS, for example ARGS="--processes 2 --out runs/seed"; see `surgvivqa reproduce --help`.
reproduce: $(READY) ## RECIPE=seed DATA=folder: fetch, verify, speech, split, train, eval, baselines, report
	$(BIN)/surgvivqa reproduce $(if $(wildcard $(RECIPE)),$(RECIPE),recipes/$(RECIPE).yaml) "$(DATA)" $(ARGS)

# The evaluation of the shipped nano on procedures, voices and wordings that no training saw: 40 procedures and
# more than 4,000 questions; temperature and refusals are set on 20 others. Resumes after a kill; delete
# runs/nano-report to start again. ROWS: questions for each control and for each system but the first. About
# 14,000 questions with 300: eight minutes on two hardware threads, after ten for the recordings.
REPORT := runs/nano-report
ROWS ?= 300
.PHONY: nano-report
nano-report: $(READY) ## evaluate the shipped model on 40 unseen procedures, all controls and systems (ROWS=300)
	$(BIN)/surgvivqa sim make $(REPORT)/test --procedures 40 --clips 20 --seed 9100000 --size 224
	$(BIN)/surgvivqa sim make $(REPORT)/eval --procedures 20 --clips 12 --seed 8100000 --size 224
	$(BIN)/surgvivqa sim make $(REPORT)/train --procedures 20 --clips 40 --seed 1000000 --size 32
	@for part in test eval; do \
	  $(BIN)/surgvivqa speech make $(REPORT)/$$part/out_template.jsonl $(REPORT)/$$part/speech --voice held-out --phrasings held-out --spread && \
	  $(BIN)/surgvivqa speech make $(REPORT)/$$part/in_template.jsonl $(REPORT)/$$part/speech --voice held-out --spread || exit 1; \
	done
	$(BIN)/surgvivqa eval suite $(REPORT)/test --out $(REPORT)/out --eval-data $(REPORT)/eval --calibrate \
	  --train $(REPORT)/train/in_template.jsonl --system-rows $(ROWS) --control-rows $(ROWS) --workers 2 \
	  --cases 8 --title "The nano model on ColonSim"
	mkdir -p docs/nano-report
	cp $(REPORT)/out/report.md $(REPORT)/out/report.html $(REPORT)/out/*.svg docs/nano-report/
	cp $(REPORT)/out/report.json $(ASSETS)/report.json  # the figures; the page says from them what the model can do
	$(BIN)/surgvivqa data stats $(REPORT)/test && cp $(REPORT)/test/data_stats.json $(ASSETS)/data_stats.json

clean: ## remove caches and build products; .venv and runs/ stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The wheel index of PyTorch is asked first whether it answers (3 s): an unreachable extra index would
# make pip retry for minutes although its own configuration may already hold the wheel.
$(VENV)/.ready-cpu $(VENV)/.ready-cuda: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: '$(PYTHON)' is not Python 3.11 or newer; name one: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@if [ -f $(VENV)/.torch ] && [ "$$(cat $(VENV)/.torch)" != "$(TORCH)" ]; then $(PIP) uninstall -y torch; fi
	@rm -f $(VENV)/.ready-* $(VENV)/.torch
	@index=""; \
	if [ "$(TORCH)" = cpu ]; then \
	  if $(BIN)/python -c 'import signal, sys, urllib.request; signal.alarm(3); urllib.request.urlopen(sys.argv[1])' \
	    $(CPU_WHEELS)/torch/ >/dev/null 2>&1; \
	  then index="--extra-index-url $(CPU_WHEELS)"; \
	  else echo "PyTorch's CPU wheel index does not answer; asking the package sources pip is configured with"; fi; \
	fi; \
	$(PIP) install $(TORCH_PIN) -c constraints.txt $$index
	$(PIP) install -e ".[train,dev,ui]" -c constraints.txt
	@if [ "$(TORCH)" = cuda ]; then $(BIN)/python -c 'import sys, torch; sys.exit(torch.version.cuda is None)' || { \
	  echo "error: TORCH=cuda was asked for, but pip chose a CPU build of $(TORCH_PIN); check pip's index settings" >&2; exit 1; }; fi
	@echo $(TORCH) > $(VENV)/.torch
	@touch $@

$(VENV)/.ready-%:
	@echo "error: TORCH=$* is unknown; use TORCH=cpu or TORCH=cuda" >&2; exit 1
