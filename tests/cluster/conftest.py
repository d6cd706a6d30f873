"""Tests with a real Ray. If the package ``ray`` is not installed they are skipped, and the summary says so."""

from __future__ import annotations

import os

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "disabled"  # no other program uses the tests' clusters; no token in the home folder
# How long Ray takes to see that a node has ended: by default 5 failed checks, 3 s apart. Our code only waits for it.
os.environ["RAY_health_check_initial_delay_ms"] = "500"
os.environ["RAY_health_check_period_ms"] = "500"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    try:
        import ray  # noqa: F401
    except ImportError:
        here = os.path.dirname(__file__)
        skip = pytest.mark.skip(reason="NOT TESTED: ray is not installed (scripts/requirements-ray.txt)")
        for item in items:
            if str(item.path).startswith(here):
                item.add_marker(skip)
