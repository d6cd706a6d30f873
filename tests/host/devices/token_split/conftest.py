"""The token split against the host's own networks, in this process: small ones with random weights, on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parents[4]
# The package by itself: `nodes` would import the whole host.
sys.path[:0] = [str(REPO / "nodes" / "host" / "devices"), str(Path(__file__).parent)]


@pytest.fixture(autouse=True)
def _log_of_this_test() -> None:
    """In place of the one of tests/host: no server is needed here."""


@pytest.fixture(scope="session")
def comfy(comfy_host: Path) -> None:
    """Makes the host's modules importable, on the CPU."""
    sys.path.insert(1, str(comfy_host))
    from comfy.cli_args import args

    args.cpu = True
    import comfy.model_management  # noqa: F401


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def _short_texts_are_shared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small cases of the families have texts of a few tokens only, which are otherwise kept whole."""
    if request.path.name != "test_shares.py":
        monkeypatch.setattr("token_split.shares.MIN_TOKENS", 1)
