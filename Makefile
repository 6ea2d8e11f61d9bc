# make help lists what can be made. Needs Python 3.11 or newer and git; everything else is set up on the way.

.DEFAULT_GOAL := help
SHELL := /bin/bash

DATA ?= data
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -S -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && echo $$p && break; done)
endif

ifeq ($(PYTHON),)
$(error Python 3.11 or newer is needed and none was found. Install it, or name it: make PYTHON=/path/to/python3.11)
endif
ifneq ($(word 2,$(DATA)),)
$(error DATA=$(DATA): Make can't handle a path with spaces. Link to it instead: ln -s "$(DATA)" data)
endif

# ---- Environment: a virtual environment from the lock file, or the conda environment of environment.yml if active.

ifeq ($(CONDA_DEFAULT_ENV),facelib)
BIN := $(CONDA_PREFIX)/bin
ENVIRONMENT :=
else
BIN := .venv/bin
ENVIRONMENT := .venv/ready
endif

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv || { echo "No virtual environment could be made. On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# LaTeX is installed where that is allowed and otherwise asked for, before anything is computed.
LATEX_PACKAGES := latexmk texlive-latex-recommended texlive-publishers texlive-fonts-recommended
INSTALL_LATEX := apt-get install --yes --no-install-recommends $(LATEX_PACKAGES)
HAVE_LATEX := $(shell { command -v latexmk && kpsewhich IEEEtran.cls || command -v tectonic; } 2> /dev/null)
REPORT_GOALS := $(filter report preview report/report.pdf,$(MAKECMDGOALS))
ifneq ($(REPORT_GOALS)$(filter test,$(MAKECMDGOALS)),)
ifeq ($(HAVE_LATEX),)
ENVIRONMENT += latex
ifeq ($(and $(filter 0,$(shell id -u)),$(shell command -v apt-get)),)
$(error LaTeX is missing. Install it with: sudo $(INSTALL_LATEX))
endif
endif
endif

.PHONY: latex
latex:
	apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive $(INSTALL_LATEX) --quiet=2 > /dev/null

# ---- Report. The plan of the profile's notebook runs is written by report/plan.py from notebooks/profiles.toml.

ifneq ($(REPORT_GOALS),)
PLANNED := $(shell $(PYTHON) -S -m report.plan $(DATA) $(PROFILE))
ifeq ($(PLANNED),)
$(error nothing was computed)
endif
include build/$(PLANNED)/plan.mk
BUILD := build/$(PROFILE)
ifeq ($(SYNTHETIC),yes)
# Short runs start up longer than they compute: two at a time unless -j says otherwise. One thread each, so that the
# numbers are the same with any -j.
export OMP_NUM_THREADS := 1
ifeq ($(filter -j% --jobs%,$(MAKEFLAGS)),)
MAKEFLAGS += --jobs=2
endif
endif
# The figures folder and the PDF are those of one profile at a time: this file changes when another is asked for.
$(shell echo $(PROFILE) | cmp -s - build/profile.txt || echo $(PROFILE) > build/profile.txt)
endif

# LAUNCH="srun --gpus=1", or any command that runs the words after it, spreads the notebook runs over a cluster.
EXECUTE := $(LAUNCH) $(BIN)/python -m notebooks.run
FIGURES_CODE := report/results.py report/words.py report/render.py $(wildcard report/facts/*.py report/figures/*.py)

.PHONY: report
report: report/report.pdf  ## environment, data, notebooks, figures, report/report.pdf

.PHONY: preview
preview: $(ENVIRONMENT)  ## the report from those runs that are finished; it names the others
	$(EXECUTE) statistics $(BUILD)/notebooks/statistics.ipynb --parameters $(BUILD)/parameters/statistics.json
	$(EXECUTE) figures $(BUILD)/notebooks/preview.ipynb results=$(BUILD) output=figures
	$(typeset)
	@# so that `make report` never takes them for its own
	@touch -d 1970-01-02 $(BUILD)/statistics/metrics.json figures/facts.json figures/report.tex report/report.pdf

figures/facts.json: $(RESULTS) $(wildcard build/bench.json) $(BUILD)/plan.json notebooks/figures.ipynb $(FIGURES_CODE) build/profile.txt | $(ENVIRONMENT)
	$(EXECUTE) figures $(BUILD)/notebooks/figures.ipynb results=$(BUILD) output=figures

# After an edit of the prose alone nothing is drawn anew.
figures/report.tex: figures/facts.json report/report.tex.j2 report/words.py report/render.py | $(ENVIRONMENT)
	$(BIN)/python -m report.render figures

report/report.pdf: figures/report.tex report/references.bib | $(ENVIRONMENT)
	$(typeset)

# LaTeX works aside, so that report.pdf is always a whole one. Its log is shown only if it fails.
define typeset
rm -rf build/latex && mkdir -p build/latex && cp figures/report.tex report/references.bib build/latex
cd build/latex && if command -v latexmk > /dev/null; \
	then latexmk -pdf -interaction=nonstopmode -halt-on-error report.tex > output.txt 2>&1; \
	else tectonic report.tex > output.txt 2>&1; fi \
	|| { tail -30 output.txt; exit 1; }
cp build/latex/report.pdf report/report.pdf.partial && mv report/report.pdf.partial report/report.pdf
@echo "report/report.pdf is the report of profile $(PROFILE)"
endef

ifdef BUILD
ifeq ($(SYNTHETIC),yes)
build/demo/faces.txt: build/demo/code/faces.txt | $(ENVIRONMENT) $(FLOPS)
	rm -rf build/demo/data
	$(BIN)/python -m facelib.studies.demo
	touch $@
$(TRAIN_LANDMARKS) $(LFW_LANDMARKS): build/demo/faces.txt
	touch $@
else
# What is wrong with the data or a parameter is told before anything is computed.
$(CHECKED): $(BUILD)/parameters/lfw.json $(PAIRS) $(RELEASED) $(BUILD)/parameters/train_faces.json $(TRAIN_PARAMETERS) | $(ENVIRONMENT)
	$(BIN)/python -m facelib.verification.verify $(LFW) $(RELEASED) > $@.partial
	$(BIN)/python -m facelib.training --check $(TRAIN_PARAMETERS) >> $@.partial && mv $@.partial $@
$(TRAIN_LANDMARKS): $(BUILD)/parameters/train_faces.json | $(ENVIRONMENT) $(FLOPS)
	$(if $(TRAIN_ALIGNED),echo $(TRAIN_FACES): aligned,$(BIN)/python -m facelib.data.landmarks $(TRAIN_FACES) build/landmarks) > $@.partial && mv $@.partial $@
# After the other: two detectors at once would only share the cores.
$(LFW_LANDMARKS): $(BUILD)/parameters/lfw.json | $(TRAIN_LANDMARKS) $(ENVIRONMENT)
	$(BIN)/python -m facelib.data.landmarks $(LFW) build/landmarks > $@.partial && mv $@.partial $@
endif
endif

# ---- Everything else.

.PHONY: test
test: $(ENVIRONMENT)  ## environment, tests (DATA=... adds those on real faces)
	@# one thread each: two test processes with two threads each would wait for one another
	$(BIN)/lint-imports --no-logo
	FACELIB_DATA=$(abspath $(DATA)) OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

.PHONY: data-lfw
data-lfw: $(ENVIRONMENT)  ## LFW, fetched by scikit-learn into DATA/lfw
	$(BIN)/python -m facelib.data.fetch_lfw $(DATA)

.PHONY: align
align: $(ENVIRONMENT)  ## aligned 112x112 crops of a folder: make align SOURCE=photos TARGET=data/mine [DETECTOR=viola-jones]
	@test -n "$(SOURCE)" -a -n "$(TARGET)" || { echo 'From where, and to where? make align SOURCE=photos TARGET=data/mine'; exit 1; }
	$(BIN)/python -m facelib.data.align_folder "$(SOURCE)" "$(TARGET)" $(DETECTOR)

.PHONY: pack
pack: $(ENVIRONMENT)  ## aligned crops in memory-mapped arrays: make pack SOURCE=data/celeb TARGET=data/celeb.pack
	@test -n "$(SOURCE)" -a -n "$(TARGET)" || { echo 'Of what, and where? make pack SOURCE=data/celeb TARGET=data/celeb.pack'; exit 1; }
	$(BIN)/python -m facelib.data "$(SOURCE)" "$(TARGET)"

.PHONY: bench
bench: $(ENVIRONMENT)  ## how fast data is loaded and backbones are trained, against the plain ways; the report then tells it
	$(BIN)/python -m benchmarks $(DATA)

.PHONY: gpu-kit
gpu-kit: $(ENVIRONMENT)  ## what a machine with a GPU and no network needs for benchmarks/README.md, in build/gpu-kit [WHEELS=1]
	$(BIN)/python -m benchmarks.gpu.kit build/gpu-kit --data $(DATA) --profile "$(PROFILE)" $(if $(filter-out 0 no false,$(WHEELS)),--wheels)

.PHONY: export
export: $(ENVIRONMENT)  ## a run as ONNX and safetensors, with a model card: make export RUN=build/mine TARGET=models/mine [RESULTS=build/verified]
	@test -n "$(RUN)" -a -n "$(TARGET)" || { echo 'Which run, and where to? make export RUN=build/mine TARGET=models/mine'; exit 1; }
	$(BIN)/python -m report.card "$(RUN)" "$(TARGET)" $(RESULTS)

.PHONY: lab
lab: $(ENVIRONMENT)  ## JupyterLab, kernel registered, notebooks ready to explore
	$(BIN)/python -m ipykernel install --sys-prefix --name facelib --display-name facelib
	$(BIN)/python -m facelib.studies.demo
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB) notebooks/train.ipynb

.PHONY: run
run: $(ENVIRONMENT)  ## one notebook, other parameters: make run NOTEBOOK=train PARAMS="ratio=0.25"
	@test -n "$(NOTEBOOK)" || { echo 'Which notebook? make run NOTEBOOK=train PARAMS="ratio=0.25"'; exit 1; }
	$(EXECUTE) $(NOTEBOOK) build/run/$(basename $(notdir $(NOTEBOOK)))-$$(date +%Y%m%d-%H%M%S).ipynb $(PARAMS)

.PHONY: lock
lock: $(ENVIRONMENT)  ## requirements.lock from pyproject.toml, in today's versions
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-annotate \
		--custom-compile-command "make lock" --output-file requirements.lock pyproject.toml

.PHONY: clean
clean:  ## delete everything computed (build, figures, PDF), but not the environment
	rm -rf build report/report.pdf
	find figures -mindepth 1 -maxdepth 1 ! -name readme -exec rm -rf {} +

.PHONY: help
help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 16
	@echo 'PROFILE=demo|small|gpu|paper chooses what is computed, DATA=folder where data is (default: data),'
	@echo 'LAUNCH="srun --gpus=1" what comes before each notebook run: make -j8 report LAUNCH=... on a cluster.'
