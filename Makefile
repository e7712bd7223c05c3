# One machine, one command. `make help` lists what there is; variables are in .env.example.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run stop clean native test test-native soak rabbitmq deep chaos chaos-work engine fuzz guides check lint types contracts templates migrations \
	capabilities packages audit manifests rules

VENV := .venv
PY := $(VENV)/bin/python
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
# The first Python on PATH that is new enough; `make PYTHON=/path/to/python3.12 run` chooses another.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python; do \
	"$$name" -c '$(IS_NEW_ENOUGH)' 2>/dev/null && { echo "$$name"; break; }; done)
# pytest options: `make test PYTEST_ARGS="tests/launcher -x"`
PYTEST_ARGS ?=
# At a time: many tests wait for other processes, so there may be more of them than cores.
TEST_WORKERS ?= 3
# Settings stop without these; no check connects to anything.
CHECK_ENV := DJANGO_SETTINGS_MODULE=controlplane.settings BALLAST_DEMO=true BALLAST_SECRET_KEY=only-read-by-static-checks \
	BALLAST_AGENT_TOKEN=only-read-by-static-checks DATABASE_URL=postgresql://nobody@127.0.0.1:1/none \
	REDIS_URL=redis://127.0.0.1:1/0 CELERY_BROKER_URL=redis://127.0.0.1:1/0

help:
	@echo "make run     start everything here: console, gateway, databases, demo; Ctrl-C stops it all"
	@echo "make run ENGINE=1   the same, with a small model server of its own (290 MB more), and the probe beside it"
	@echo "make stop    stop the copy that runs here"
	@echo "make clean   stop it and remove its data (var/, or BALLAST_DATA_DIR)"
	@echo "make test    run every test but soaks and walks along guides, browser and end-to-end ones included"
	@echo "make native  compile the gateway's hot path; from then on, gateways of these sources run it (needs gcc)"
	@echo "make test-native   what tests say of the data plane, of the compiled one"
	@echo "make guides  follow docs/guides at a real console, and take their pictures anew"
	@echo "make soak    a bad canary and a Black Friday from end to end, with nobody there; some minutes of traffic each"
	@echo "make rabbitmq   Celery on a real RabbitMQ, which is found or installed, and started for the tests"
	@echo "make deep    try approvals, roll-outs, releases, keys, quotas and work in many more orders; takes half an hour"
	@echo "make chaos   each component killed and stopped under load, one row of a table each; half an hour"
	@echo "make chaos-work   durable work, and a redrive of 300 letters, while workers are killed; a quarter of an hour"
	@echo "make engine  the probe beside a real llama.cpp on processors, stopped, wedged and killed; installs it (290 MB)"
	@echo "make fuzz    ask API and gateway whatever anybody could send, at random, for as long as you like"
	@echo "make check   lint, types, import contracts, templates, migrations, what routes ask of lanes, packages, manifests, alert rules"

# `make run ENGINE=1`: with a model server of its own and the probe beside it.
run: $(VENV)/.installed $(if $(ENGINE),$(VENV)/.installed-engine)
	@exec $(if $(ENGINE),env BALLAST_DEMO_ENGINE=true) $(PY) -m launcher run

stop:
	@if [ -x $(PY) ]; then exec $(PY) -m launcher stop; else echo "Nothing is running: there is no $(VENV)"; fi

clean:
	@if [ -x $(PY) ]; then exec $(PY) -m launcher clean; \
	elif [ -d var ]; then rm -rf var && echo "Removed var"; \
	else echo "Nothing to remove: var is not there"; fi

test: $(VENV)/.installed-dev
	@BALLAST_CHROMIUM="$$($(PY) -m launcher chromium)" && export BALLAST_CHROMIUM && \
	exec $(PY) -m pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

native: $(VENV)/.installed-dev
	@exec $(PY) -m launcher native

test-native: native
	exec env BALLAST_TEST_NATIVE=1 $(PY) -m pytest -n $(TEST_WORKERS) --dist loadfile -m "not soak and not engine and not rabbitmq and not python_only" \
		tests/dataplane tests/contracts tests/end_to_end $(PYTEST_ARGS)

guides: $(VENV)/.installed-dev
	@BALLAST_CHROMIUM="$$($(PY) -m launcher chromium)" && export BALLAST_CHROMIUM && \
	exec env GUIDE_PICTURES=docs/img/guides $(PY) -m pytest -m "" tests/guides $(PYTEST_ARGS)

soak: $(VENV)/.installed-dev
	exec $(PY) -m pytest -m soak tests/end_to_end $(PYTEST_ARGS)

rabbitmq: $(VENV)/.installed-dev
	@BALLAST_RABBITMQ="$$($(PY) -m launcher rabbitmq)" && export BALLAST_RABBITMQ && \
	exec $(PY) -m pytest -m rabbitmq tests/rabbitmq $(PYTEST_ARGS)

deep: $(VENV)/.installed-dev
	exec env HYPOTHESIS_PROFILE=deep $(PY) -m pytest tests/approvals/test_every_order.py \
		tests/contracts/test_idempotency_in_every_order.py tests/contracts/test_quota_in_every_order.py \
		tests/work/test_every_order.py tests/dataplane/health/test_every_order.py $(PYTEST_ARGS)

# `make chaos CHAOS_ARGS="--only Redis PostgreSQL"`: those rows alone.
chaos: $(VENV)/.installed-dev
	exec $(PY) -m benchmarks.chaos $(CHAOS_ARGS)

chaos-work: $(VENV)/.installed-dev
	$(PY) -m benchmarks.durable_work
	$(PY) -m benchmarks.redrive_under_kill

# Real time and a real model: what is waited for are the probe's own limits.
engine: $(VENV)/.installed-engine $(VENV)/.installed-dev
	exec $(PY) -m pytest -m engine -s tests/end_to_end/test_engine.py $(PYTEST_ARGS)

# One target each, so that `make -k check` shows all that is wrong and `make types` only the types.
check: lint types contracts templates migrations capabilities packages audit manifests rules

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.installed-dev
	env $(CHECK_ENV) $(VENV)/bin/mypy launcher dataplane controlplane manage.py

contracts: $(VENV)/.installed-dev
	env $(CHECK_ENV) $(VENV)/bin/lint-imports

templates: $(VENV)/.installed-dev
	$(VENV)/bin/djlint --lint --quiet templates

migrations: $(VENV)/.installed-dev
	env $(CHECK_ENV) $(PY) -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run
	env $(CHECK_ENV) $(PY) -W ignore::RuntimeWarning manage.py check_migrations

capabilities: $(VENV)/.installed-dev
	env $(CHECK_ENV) $(PY) -W ignore::RuntimeWarning manage.py check_capabilities

packages: $(VENV)/.installed-dev
	$(PY) -m pip check

# BALLAST_OFFLINE=1 lets it pass where the index knows no advisories, and says so.
audit: $(VENV)/.installed-dev
	$(PY) .ci/audit_packages.py

# Anew each time, as long as you like: `make fuzz FUZZ_EXAMPLES=200`; its seed is printed.
fuzz: $(VENV)/.installed-dev
	exec env FUZZ_EXAMPLES=$(or $(FUZZ_EXAMPLES),60) FUZZ_SEED=$(or $(FUZZ_SEED),$$(date +%s)) \
		$(PY) -m pytest -s tests/fuzz tests/dataplane/gateway/test_fuzz.py $(PYTEST_ARGS)

# What `kubectl apply -k` would send, against Kubernetes' own schemas; and the Dockerfile's words.
manifests: $(VENV)/.installed-dev
	@for overlay in one-node production; do \
		$(VENV)/bin/kubectl kustomize deploy/kubernetes/overlays/$$overlay > $(VENV)/$$overlay.yaml && \
		for version in 1.31.0 1.37.0; do \
			$(VENV)/bin/kubernetes-validate --strict --quiet --no-warn -k $$version $(VENV)/$$overlay.yaml || exit 1; \
		done || exit 1; \
	done
	$(VENV)/bin/hadolint Dockerfile

# That alert rules are such, and that each fires when it is to; whether what they name exists, `make test` says.
rules: $(VENV)/.installed-dev
	@promtool="$$($(PY) -m launcher promtool)" && cd deploy/observability/prometheus && \
	"$$promtool" check rules ballast.rules.yaml && "$$promtool" test rules ballast.rules.test.yaml

# The .pth file puts the checkout on the path of this environment, whatever directory a tool is started from.
$(VENV)/.installed: requirements.txt requirements-production.txt
	@[ -n "$(PYTHON)" ] && "$(PYTHON)" -c '$(IS_NEW_ENOUGH)' 2>/dev/null || { \
		echo "ballast: needs Python 3.11 or newer; '$(or $(PYTHON),python3)' is $$($(or $(PYTHON),python3) --version 2>&1 || echo not there); name one: make PYTHON=/path/to/python3.12 run" >&2; \
		exit 1; }
	@echo "Environment: installing requirements.txt into $(VENV); the first time this takes a minute or two"
	@"$(PYTHON)" -m venv $(VENV) || { \
		echo "ballast: $(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
		exit 1; }
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(PY) -c "import pathlib, sysconfig; pathlib.Path(sysconfig.get_path('purelib'), 'ballast.pth').write_text('../../../..\n')"
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements-build.txt $(VENV)/.installed
	@echo "Environment: installing requirements-dev.txt into $(VENV)"
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

$(VENV)/.installed-engine: requirements-engine.txt $(VENV)/.installed
	@echo "Environment: installing requirements-engine.txt into $(VENV)"
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-engine.txt
	@touch $@
