"""Shared by the tests of the host-independent core."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_lane_outlives_its_test() -> Iterator[None]:
    """Each pool that a test opens is closed again, whatever happens in the run."""
    yield
    lanes = [thread for thread in threading.enumerate() if thread.name.startswith("chords-lane")]
    limit = time.monotonic() + 20
    for lane in lanes:
        lane.join(max(0.0, limit - time.monotonic()))  # a closed lane whose call was given up ends with the call
    left = [lane.name for lane in lanes if lane.is_alive()]
    assert not left, f"lanes still alive after the test: {left}"
