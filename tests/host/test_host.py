"""The live host: it starts with the pack in it, and the client does what the other tests rely on."""

from __future__ import annotations

import io

import pytest
from _server import ComfyServer
from client import ComfyClient, ValidationError
from PIL import Image

GREY = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": 0x808080}}


def _save(source: str) -> dict:
    return {"class_type": "SaveImage", "inputs": {"images": [source, 0], "filename_prefix": "test_host"}}


def test_the_pack_is_loaded(server: ComfyServer, client: ComfyClient) -> None:
    failed = [line for line in server.log().splitlines() if "IMPORT FAILED" in line]
    assert failed == []
    assert "ChordsKSampler" in client.object_info("ChordsKSampler")


@pytest.mark.parametrize("method", ["run", "run_polling"])
def test_a_workflow_runs_and_its_picture_is_fetched(client: ComfyClient, method: str) -> None:
    run = getattr(client, method)({"1": GREY, "2": _save("1")})
    picture = Image.open(io.BytesIO(client.view(run.images[0])))
    assert picture.size == (64, 48)
    assert picture.getpixel((0, 0)) == (128, 128, 128)


def test_a_picture_is_uploaded(client: ComfyClient) -> None:
    data = io.BytesIO()
    Image.new("RGB", (32, 16), (255, 0, 0)).save(data, "PNG")
    stored = client.upload(data.getvalue(), "red.png")
    load = {"class_type": "LoadImage", "inputs": {"image": stored["name"]}}
    run = client.run({"1": load, "2": _save("1")})
    assert Image.open(io.BytesIO(client.view(run.images[0]))).getpixel((3, 3)) == (255, 0, 0)


def test_a_refusal_names_node_and_input(client: ComfyClient) -> None:
    wrong = {**GREY, "inputs": {**GREY["inputs"], "batch_size": 0}}
    with pytest.raises(ValidationError, match=r"node 1 \(EmptyImage\): .*batch_size") as caught:
        client.queue({"1": wrong, "2": _save("1")})
    assert caught.value.status == 400
    assert "1" in caught.value.node_errors


def test_it_leaves_no_dirt_in_the_host(server: ComfyServer, client: ComfyClient) -> None:
    before = sorted(path.name for path in (server.host / "output").rglob("*"))
    run = client.run({"1": {**GREY, "inputs": {**GREY["inputs"], "width": 32}}, "2": _save("1")})
    assert (server.output_directory / run.images[0]["filename"]).exists()
    assert sorted(path.name for path in (server.host / "output").rglob("*")) == before
    assert not (server.host / "user").exists()
