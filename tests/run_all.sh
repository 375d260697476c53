#!/usr/bin/env sh
# What `make test` runs: unit and torch tests, then every notebook twice in the same run folder: through nbval as on this machine, then
# as on Colab. The gated model makes both rounds take the fallback, without a network.
set -eu
python -m pytest tests
ADSLM_RUNS="$(mktemp -d)"
export ADSLM_RUNS ADSLM_SMOKE=1 ADSLM_HEADLESS=1
echo "notebooks, as on this machine"
ADSLM_MODEL=ads/refused HF_HUB_OFFLINE=1 python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=300 -p no:cacheprovider \
  notebooks/*.ipynb
echo "notebooks, as on Colab"
python -m pytest -p no:cacheprovider tests/road_as_on_colab.py
rm -rf "$ADSLM_RUNS"
