"""Settings of the fuzz tests, and the line that says how many cases ran."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from .cases import COUNT

# Everywhere the same cases, in the same order, unless ADSLM_FUZZ asks for more of them, and for others: --hypothesis-seed=N.
settings.register_profile(
    "adslm",
    derandomize="ADSLM_FUZZ" not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
settings.load_profile("adslm")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    if COUNT:
        terminalreporter.write_line(f"fuzz: {sum(COUNT.values()):,} cases ({', '.join(f'{k} {v:,}' for k, v in COUNT.items())})")
