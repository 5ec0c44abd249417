# The front door: everything here sets up, configures and builds what it needs first.

BUILD := build/release
TIMED := @tools/timed.sh

# What "make lab" measures: names in lab/scenarios, or files.
SCENARIO ?= solo-starved home4-even home4-uneven home4-roomy fits-on-one flaky lossy chat
LAB_OPTIONS ?=

export QUESTION

.DEFAULT_GOAL := help
.PHONY: help setup configure build build-all build-lab demo test bench lab lab-check format lint clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

setup: ## Install the system's packages, fetch llama.cpp's source and the demo's model
	$(TIMED) "Set-up" tools/setup.sh

configure: setup
	$(TIMED) "Configuring" cmake --preset release

build: configure ## Build the executable, build/release/prima
	$(TIMED) "Building" cmake --build --preset release --target prima

build-all: configure
	$(TIMED) "Building" cmake --build --preset release

demo: build ## A chat model answers through a ring of three processes (QUESTION="...")
	@tools/demo.sh $(BUILD)/prima $(if $(QUESTION),"$$QUESTION")

test: build-all ## Build and run all tests
	@ctest --preset release

bench: build-all ## Run the benchmarks
	@tools/bench.sh $(BUILD)

build-lab: configure
	$(TIMED) "Building" cmake --build --preset release --target prima lab_relay

lab: build-lab ## As root: measure emulated home clusters (SCENARIO="home4-even ...", LAB_OPTIONS)
	$(TIMED) "The lab" python3 lab bench $(SCENARIO) $(LAB_OPTIONS)

lab-check: build-lab ## A small emulated cluster, where this machine can have one
	$(TIMED) "The small household" python3 lab bench small --only-prima --if-possible --output $(BUILD)/lab

format: ## Format the source files with clang-format
	@tools/format.sh

lint: setup ## clang-tidy, formatting, self-contained headers, shell scripts
	@tools/lint.sh

clean: ## Remove what was built (downloads in ~/.cache/prima stay)
	rm -rf build
