#!/usr/bin/env sh
# What `make test` runs: unit and torch tests, then every notebook through nbval, twice in the same run folder.
set -eu
python -m pytest tests
ADSLM_RUNS="$(mktemp -d)"
export ADSLM_RUNS ADSLM_SMOKE=1 ADSLM_HEADLESS=1
for round in first second; do
  echo "notebooks, $round time"
  python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=300 -p no:cacheprovider \
    notebooks/00_setup.ipynb notebooks/01_dataset.ipynb notebooks/02_train.ipynb notebooks/03_evaluate.ipynb notebooks/04_export.ipynb
done
rm -rf "$ADSLM_RUNS"
