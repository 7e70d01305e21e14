#!/usr/bin/env bash
# Builds wheel and sdist into dist/, and runs what a user runs first, from each, in clean environments.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
$python -m pip install -q --disable-pip-version-check build
rm -rf dist build
$python -m build -q --outdir dist . 2>&1 | grep -v WARNING || true
ls -l dist
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cp src/cmkg/hands/page/sample.jpg "$place/hand.jpg"
$python -m venv "$place/clean"
"$place/clean/bin/pip" install -q --disable-pip-version-check -c constraints.txt dist/*.whl
(
  cd "$place" # away from the checkout: only what was installed is there
  clean/bin/cmkg --version
  clean/bin/cmkg predict hand.jpg
  clean/bin/python - <<'PYTHON'
import json

(hand,) = json.load(open("hands/hands.json"))["hands"]
assert len(hand["joints_px"]) == 21, hand
print(f"predicted from the wheel: a {hand['side']} hand")
PYTHON
  if clean/bin/python -c 'import torch' 2>/dev/null; then echo "predicting installs torch" >&2; exit 1; fi
  said=$(clean/bin/python -c 'from cmkg import distill' 2>&1 || true)
  case "$said" in *"cmkg.distill needs torch"*) ;; *) echo "no sentence without torch: $said" >&2; exit 1 ;; esac
  size=$(du -sm clean/lib/python*/site-packages | cut -f1)
  echo "what predicting needs: $size MB"
  test "$size" -lt 500
)
"$place/clean/bin/pip" install -q --disable-pip-version-check --force-reinstall --no-deps dist/*.tar.gz
(cd "$place" && clean/bin/cmkg predict hand.jpg --out again && cmp hands/hands.json again/hands.json)
echo "predicted from the sdist: the same"
