# The front door. Everything happens in .venv, which `setup` makes and keeps as requirements.lock says;
# when nothing changed, that takes a tenth of a second.

PYTHON ?= python3
VENV := .venv/bin
STAGES := unit contract architecture integration e2e
# What needs no engine runs in two processes, file by file; a real engine wants all cores.
TWO := -n 2 --dist loadfile

.PHONY: help setup serve test check bench
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## Create .venv and install the pinned packages
	@$(PYTHON) -m trireme.bootstrap

serve: setup ## Run everything on this machine, ready for the first request; Ctrl-C stops it
	@exec $(VENV)/trireme serve

test: setup ## Run all tests, from the quickest to the real engine
	@$(VENV)/trireme prepare
	@for stage in $(STAGES); do \
		echo "--- tests/$$stage"; \
		case $$stage in unit | integration) two="$(TWO)" ;; *) two="" ;; esac; \
		$(VENV)/python -m pytest -q $$two tests/$$stage || exit 1; \
	done

check: setup ## Lint, check types and the architecture
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/lint-imports
	$(VENV)/hadolint docker/*.Dockerfile

bench: setup ## Measure, side by side with vLLM's own server
	@exec $(VENV)/python -m benchmarks
