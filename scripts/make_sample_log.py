"""Writes data/sample_ad_log.csv, the sample log that ships: made up, and the same bytes each time.

.venv/bin/python scripts/make_sample_log.py
"""

from __future__ import annotations

from pathlib import Path

from adslm_helpers.dataset.ad_log.sample import sample_export
from adslm_helpers.run import write_bytes

TARGET = Path(__file__).resolve().parents[1] / "data" / "sample_ad_log.csv"


def main() -> None:
    content = sample_export().encode("utf-8-sig")  # with the mark that spreadsheets look for
    write_bytes(TARGET, content)
    print(f"{TARGET.name}: {len(content):,} bytes, {content.count(10):,} lines")


if __name__ == "__main__":
    main()
