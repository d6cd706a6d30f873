"""What benchmarks on a live ComfyUI share: a server with the tests' nodes, and the latents and pictures of a run.

Whoever imports it has `scripts` and `tests/host` on its path.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import host
import torch
from _server import ComfyServer
from client import ComfyClient, Run
from PIL import Image
from safetensors.torch import load_file

from benchmarks._report import REPO

TESTS = REPO / "tests" / "host"


@contextmanager
def server_with_test_nodes() -> Iterator[ComfyServer]:
    """A server with the nodes of the tests, among them a model that sleeps instead of computing."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = extra_paths(Path(folder), nodes={"base_path": str(TESTS), "custom_nodes": "pack"})
        with ComfyServer(host.prepare(), threads=1, arguments=arguments) as server:
            yield server


def extra_paths(folder: Path, **sections: dict[str, str]) -> list[str]:
    """Arguments for a server that finds models and nodes in these places; writes a file into ``folder``."""
    paths = folder / "paths.yaml"
    paths.write_text(json.dumps(sections), encoding="utf-8")  # JSON is YAML
    return ["--extra-model-paths-config", str(paths)]


def latent_of(server: ComfyServer, run: Run, node: str) -> torch.Tensor:
    """The latent that a SaveLatent node has written."""
    (file,) = run.outputs[node]["latents"]
    return load_file(server.output_directory / file["subfolder"] / file["filename"])["latent_tensor"]


def picture_of(client: ComfyClient, run: Run, node: str) -> Image.Image:
    """The first picture of a node that shows pictures."""
    return Image.open(io.BytesIO(client.view(run.outputs[node]["images"][0]))).convert("RGB")
