# One word each: `make demo`, `make test`, `make check`, `make bench`, `make chaos`, `make kills`, `make growth`,
# `make clean`.
#
#   make demo ARGS=--serve           what follows ARGS= goes to the command
#   make test ARGS="-k runs -x"
#   make chaos ARGS="--scans 500 --seed 1"
#   make growth ARGS="--events 200000 --scans 100"
#   make test PYTHON=python3.12      another interpreter: the environment is made anew for it
#
# Each makes what it needs in .venv, once: with uv where there is one, else with venv and pip.

SHELL  := /bin/bash
PYTHON ?=
ARGS   ?=
BIN    := .venv/bin
READY  := .venv/.ready
PEERS  := .venv/.peers

# The stamp is the last thing that a set-up writes, so an interrupted one is made anew. It holds the checkout's path
# (an environment does not survive being moved or copied with it) and the PYTHON that was asked for.
MADE_IN   := $(shell test -x $(BIN)/python && sed -n 1p $(READY) 2>/dev/null)
MADE_WITH := $(shell sed -n 2p $(READY) 2>/dev/null)
ifneq ($(MADE_IN),$(CURDIR))
$(READY): FORCE
else ifneq ($(PYTHON),)
ifneq ($(PYTHON),$(MADE_WITH))
$(READY): FORCE
endif
endif

.PHONY: demo test check bench chaos kills growth clean FORCE

demo: $(READY)
	$(BIN)/beamfold demo $(ARGS)

test: $(PEERS)
	$(BIN)/python -m pytest $(ARGS)

bench: $(PEERS)
	$(BIN)/python benchmarks/bench.py $(ARGS)

chaos: $(READY)
	cd tests && ../$(BIN)/python -m faults.chaos $(ARGS)

kills: $(READY)
	cd tests && ../$(BIN)/python -m faults.kills $(ARGS)

growth: $(READY)
	cd tests && ../$(BIN)/python -m faults.growth $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv build dist demo-output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- the environment ------------------------------------------------------------------------------------------

UV         := $(shell command -v uv)
CANDIDATES := $(if $(PYTHON),'$(PYTHON)',python3 python3.13 python3.12 python3.11)

# A shim of pyenv may be there and yet run nothing, so candidates are tried, not only looked up. ensurepip is what
# Debian's python3 lacks without python3-venv; uv does not need it. The base executable, because the candidate may be
# the activated .venv itself, which is about to go.
PROBE = import sys; assert sys.version_info >= (3, 11); $(if $(UV),,import ensurepip, venv; )print(sys._base_executable)

define FIND_PYTHON
python=; \
for candidate in $(CANDIDATES); do \
  if python=$$("$$candidate" -c '$(PROBE)' 2>/dev/null); then break; fi; \
done; \
if [ -z "$$python" ]; then \
  echo "Beamfold needs Python 3.11 or newer$(if $(UV),,, with its venv module (Debian: apt install python3-venv))." >&2; \
  echo "Tried: $(CANDIDATES). Name another: make PYTHON=/path/to/python" >&2; \
  exit 1; \
fi
endef

PACKAGES = -e '.[dev]'

# Scratch files, and the caches of uv and pip where there is no home directory to keep them in, lie in .venv while it
# is being made: nobody needs to be able to write anywhere else.
define WITH_SCRATCH
scratch='$(CURDIR)/.venv/.scratch'; mkdir -p "$$scratch"; \
cache="$${XDG_CACHE_HOME:-$$HOME/.cache}"; \
if ! { mkdir -p "$$cache" && test -w "$$cache"; } 2>/dev/null; then \
  export UV_CACHE_DIR="$$scratch/uv" PIP_CACHE_DIR="$$scratch/pip"; \
fi; \
export TMPDIR="$$scratch" VIRTUAL_ENV= PYTHONNOUSERSITE=1
endef

$(READY): pyproject.toml
	@set -e; $(FIND_PYTHON); rm -rf .venv; \
	echo "Making .venv with $$("$$python" --version) and $(if $(UV),uv,pip): once, up to a minute"; \
	$(WITH_SCRATCH); \
	$(if $(UV),$(WITH_UV),$(WITH_PIP)); \
	rm -rf "$$scratch"; \
	printf '%s\n' '$(CURDIR)' '$(PYTHON)' > $(READY)

define WITH_UV
uv venv --quiet --no-project --allow-existing --python "$$python" .venv; \
uv pip install --quiet --python $(BIN)/python $(PACKAGES)
endef

# The pip that an older Python brings along takes minutes to resolve what a new one does in seconds. Modules are compiled
# when they are first imported, as with uv: most never are.
define WITH_PIP
"$$python" -m venv .venv; \
$(BIN)/python -m pip install --quiet --upgrade pip; \
$(BIN)/python -m pip install --quiet --no-compile $(PACKAGES)
endef

# ---- what we are tested and measured against ------------------------------------------------------------------

# The older h5pyd, which cannot be in one environment with the newer one but needs nothing that is not there; and
# dranspose, which is only right with releases of its dependencies that are older than ours.
H5PYD_OLD = 'h5pyd==0.24.*'
DRANSPOSE = 'dranspose==0.2.0' 'cbor2<5.8' 'redis==7.1.0'

$(PEERS): $(READY)
	@set -e; rm -rf .venv/h5pyd-0.24 .venv/dranspose; \
	echo "Adding the clients and the peer that the tests compare with"; \
	$(WITH_SCRATCH); \
	$(if $(UV),$(PEERS_WITH_UV),$(PEERS_WITH_PIP)); \
	rm -rf "$$scratch"; touch $(PEERS)

define PEERS_WITH_UV
uv pip install --quiet --python $(BIN)/python --no-deps --target .venv/h5pyd-0.24 $(H5PYD_OLD); \
uv venv --quiet --no-project --python $(BIN)/python .venv/dranspose; \
uv pip install --quiet --python .venv/dranspose/bin/python $(DRANSPOSE)
endef

define PEERS_WITH_PIP
$(BIN)/python -m pip install --quiet --no-compile --no-deps --target .venv/h5pyd-0.24 $(H5PYD_OLD); \
$(BIN)/python -m venv --without-pip .venv/dranspose; \
$(BIN)/python -m pip --python .venv/dranspose/bin/python install --quiet --no-compile $(DRANSPOSE)
endef
