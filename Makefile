# Two commands: `make run` trains a driver and writes a report, `make test` runs the tests.
PYTHON ?= python3
LOGDIR ?= exp_dir
PRESET ?= laptop
BIN := .venv/bin
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist worksteal  # tests on the cores, each file mostly on one of them

.PHONY: run test test-slow test-cluster lint bench conformance conformance-sample bounds test-lowest dist package clean

run: .venv/installed
	$(BIN)/worldmodels run --preset $(PRESET) --logdir $(LOGDIR)

test: .venv/installed-dev
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow

# Ray nodes in network namespaces, killed, cut off and slowed down (Linux, as root).
test-cluster: .venv/installed-dev
	$(BIN)/python -m pytest -m slow tests/cluster

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks.pipeline
	$(BIN)/python -m benchmarks.carracing

conformance: .venv/installed-dev
	$(BIN)/python -m conformance

conformance-sample: .venv/installed-dev
	$(BIN)/python -m conformance --sample

# The fast tests with the lowest version of everything that pyproject.toml names (Python 3.11 has wheels of them).
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct \
		-e '.[box2d]' 'pytest>=8' 'pytest-xdist>=3.6' 'hypothesis>=6.100'
	.venv-lowest/bin/python -m pytest $(SIDE_BY_SIDE)

# sdist and wheel of the last commit, in dist/. PyPI shows no picture and no link without an address:
# `make dist REPOSITORY=https://…` puts the repository's into the README and the metadata of what is built.
dist: .venv/installed-dev
	rm -rf build dist && mkdir -p build/source
	git archive HEAD | tar -x -C build/source
	if [ -n "$(REPOSITORY)" ]; then \
		sed -i -E -e 's#\]\((docs/images/)#]($(REPOSITORY)/raw/HEAD/\1#g' \
			-e 's#\]\((docs/|worldmodels/|[A-Z]+\.md)#]($(REPOSITORY)/blob/HEAD/\1#g' build/source/README.md; \
		printf '\n[project.urls]\nRepository = "%s"\n' "$(REPOSITORY)" >> build/source/pyproject.toml; \
	fi
	$(BIN)/python -m build --outdir dist build/source > build/log || { cat build/log; exit 1; }

# The wheel as a user has it: in an environment of its own, without extras, used from an empty folder.
package: dist
	rm -rf build/wheel build/empty && mkdir build/empty
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install --quiet -c constraints.txt dist/*.whl
	cd build/empty && ../wheel/bin/worldmodels --help > /dev/null
	cd build/empty && ../wheel/bin/python -W error::UserWarning -c "import worldmodels, worldmodels.commands.train_controller; \
		worldmodels.load_pretrained('carracing')"
	cd build/empty && ../wheel/bin/worldmodels evaluate --pretrained carracing --env worldmodels/CarRacing-v3 --episodes 1 --max-steps 50

# The simulator's tests with every index checked; compiles anew, into a folder of its own.
bounds: .venv/installed-dev
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=.venv/bounds $(BIN)/python -m pytest tests/envs/test_physics.py \
		tests/envs/test_render.py tests/envs/test_track.py tests/envs/test_carracing_env.py tests/envs/test_options.py \
		tests/envs/test_conformance.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[box2d]'
	@touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ .venv/installed

clean:
	rm -rf .venv .venv-lowest build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
