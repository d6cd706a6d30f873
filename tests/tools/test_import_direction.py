"""The import direction nodes -> nodes/host -> chords_core holds, and the check sees what breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest
from check_imports import check

PLANTED = [
    ("chords_core/a.py", "import comfy.samplers"),
    ("chords_core/a.py", "import folder_paths"),
    ("chords_core/a.py", "from nodes import common_ksampler"),
    ("chords_core/a.py", "from ..nodes import sampler"),
    ("chords_core/a.py", "from ..nodes.host.devices.lanes import Lane"),
    ("chords_core/a.py", "import numpy"),
    ("chords_core/a.py", "import safetensors.torch"),
    ("chords_core/a.py", "import requests"),
    ("chords_core/a.py", "def f():\n    import latent_preview"),
    ("chords_core/a.py", "import importlib\nimportlib.import_module('comfy.sample')"),
    ("chords_core/deep/a.py", "from ...demo import scenes"),
    ("nodes/a.py", "import comfy.samplers"),
    ("nodes/a.py", "from comfy import samplers"),
    ("nodes/a.py", "from comfy_execution.progress import get_progress_state"),
    ("nodes/a.py", "def f():\n    from server import PromptServer"),
    ("nodes/a.py", "import nodes"),
    ("nodes/a.py", "from ..scripts import host"),
    ("nodes/host/a.py", "from ..sampler import ChordsKSampler"),
    ("nodes/host/a.py", "from .. import sampler"),
    ("demo/a.py", "import comfy.sd"),
    ("demo/a.py", "from ..chords_core import sample"),
    ("demo/a.py", "import safetensors"),
]
ALLOWED = [
    ("chords_core/a.py", "from __future__ import annotations\nimport math, torch\nfrom torch import Tensor"),
    ("chords_core/a.py", "from .b import c\nfrom . import d\nfrom chords_core.e import f"),
    (
        "chords_core/a.py",
        "def f():\n    import ray, numpy as np\n    from safetensors.torch import save_file",
    ),
    ("chords_core/deep/a.py", "from ..b import c"),
    ("nodes/a.py", "from comfy_api.latest import io, ui\nimport torch"),
    ("nodes/a.py", "from .host.lanes import Lane\nfrom ..chords_core import sample\nfrom . import b"),
    ("nodes/host/a.py", "import comfy.samplers\nimport nodes\nfrom server import PromptServer"),
    ("nodes/host/a.py", "from .lanes import Lane\nfrom ...chords_core import sample"),
    ("demo/a.py", "import math\nimport numpy\nimport torch\nfrom .scenes import Scene"),
]


def _plant(folder: Path, path: str, source: str) -> Path:
    file = folder / path
    file.parent.mkdir(parents=True)
    file.write_text(source + "\n", encoding="utf-8")
    return folder


def test_the_pack_keeps_the_direction(repo: Path) -> None:
    assert [str(violation) for violation in check(repo)] == []


@pytest.mark.parametrize(("path", "source"), PLANTED)
def test_a_planted_violation_is_found(tmp_path: Path, path: str, source: str) -> None:
    (violation,) = check(_plant(tmp_path, path, source))
    assert violation.path == path
    assert violation.line == len(source.splitlines())


@pytest.mark.parametrize(("path", "source"), ALLOWED)
def test_what_is_allowed_passes(tmp_path: Path, path: str, source: str) -> None:
    assert check(_plant(tmp_path, path, source)) == []
