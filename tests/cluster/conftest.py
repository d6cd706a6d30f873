"""Tests with a real Ray. Without the package ``ray`` they are skipped, and the summary says so."""

from __future__ import annotations

import os

import pytest
import torch

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "disabled"  # clusters of a test are its own, and leave no token in the home folder


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes minutes; -m 'not slow' leaves it out")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    try:
        import ray  # noqa: F401
    except ImportError:
        here = os.path.dirname(__file__)
        skip = pytest.mark.skip(reason="NOT TESTED: ray is not installed (scripts/requirements-ray.txt)")
        for item in items:
            if str(item.path).startswith(here):
                item.add_marker(skip)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """The inline results are compared with those of actors, which compute with one thread."""
    torch.set_num_threads(1)
