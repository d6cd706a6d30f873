"""The emoji test bed, without the package that its pictures come from: texts, latents, reading, a training in small."""

from __future__ import annotations

import io
import json
import math
import random
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
import torch
import train_demo
import train_emoji
from _flow_training import FlowRun
from PIL import Image

from benchmarks._emoji import LATENT, Emoji, PatchLatents, describe_emoji, emoji_prompts, load_emoji
from demo.prompts import encode_prompt
from demo.scenes import COLOURS

HOT_DOG = Emoji("hot dog", "food prepared")
WAVING = Emoji("waving hand", "hand fingers open", "medium dark")
TINTS = {"a.png": (255, 0, 0), "b.png": (0, 255, 0), "c.png": (0, 0, 255)}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive in the package's layout: two emoji, one of them in a skin tone as well, and a picture too few."""
    hand = {"image": "a.png", "name": "WAVING HAND", "subcategory": "hand-fingers-open"}
    hand["skin_variations"] = {"1F3FE": {"image": "b.png"}, "1F3FB-1F3FF": {"image": "missing.png"}}
    sun = {"image": "c.png", "name": "SUN", "subcategory": "sky & weather"}
    files = {"package/emoji.json": json.dumps([hand, sun]).encode()}
    for name, tint in TINTS.items():
        image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
        image.paste((*tint, 255), (16, 16, 48, 48))
        written = io.BytesIO()
        image.save(written, "PNG")
        files[f"package/img/google/64/{name}"] = written.getvalue()
    path = tmp_path_factory.mktemp("package") / "small.tgz"
    with tarfile.open(path, "w:gz") as opened:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("emoji", "options", "text"),
    [
        (HOT_DOG, {}, "hot dog"),
        (HOT_DOG, {"background": "blue", "kind": True}, "hot dog, food prepared, blue background"),
        (HOT_DOG, {"name": False}, "food prepared"),
        (WAVING, {"background": "red"}, "waving hand, medium dark skin, red background"),
        (WAVING, {"name": False, "background": "red"}, "hand fingers open, red background"),
    ],
)
def test_a_prompt_says_what_it_is_asked_to(emoji: Emoji, options: dict, text: str) -> None:
    assert describe_emoji(emoji, **options) == text


def test_prompts_that_differ_in_a_word_are_encoded_differently() -> None:
    texts = [describe_emoji(HOT_DOG, colour) for colour in ("", "red", "blue")] + [describe_emoji(WAVING)]
    encoded = [encode_prompt(text) for text in texts]
    assert not any(torch.equal(one, other) for i, one in enumerate(encoded) for other in encoded[:i])


def test_half_of_the_prompts_name_the_emoji_and_half_leave_it_open() -> None:
    texts = emoji_prompts([HOT_DOG, WAVING], 40, seed=3)
    assert all(text.startswith(("hot dog", "waving hand")) and text.endswith("background") for text in texts[:20])
    assert set(texts[20:]) == {"food prepared", "hand fingers open"}
    assert texts == emoji_prompts([HOT_DOG, WAVING], 40, seed=3) != emoji_prompts([HOT_DOG, WAVING], 40, seed=4)


def test_latents_keep_what_sixteen_components_can_say() -> None:
    """Patches that are mixtures of 16 patterns come back; the latents have variance 1 in all."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(16, 48, generator=generator)
    patches = 0.5 + torch.randn(40, 64, 16, generator=generator) @ patterns / 40
    pictures = torch.nn.functional.pixel_shuffle(patches.unflatten(1, (8, 8)).permute(0, 3, 1, 2), 4)
    latents = PatchLatents.of(pictures)
    encoded = latents.encode(pictures)
    assert encoded.shape == (40, *LATENT)
    assert torch.allclose(latents.decode(encoded), pictures, atol=1e-4)
    assert float(encoded.square().mean()) == pytest.approx(1, abs=0.01)


def test_the_package_is_read_with_names_kinds_and_skin_tones(archive: Path) -> None:
    found = [each.emoji for each in train_emoji.read_package(archive)]
    hand = ("waving hand", "hand fingers open")
    assert found == [Emoji(*hand), Emoji(*hand, "medium dark"), Emoji("sun", "sky weather")]


def test_npm_is_asked_for_one_version_and_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def npm(command: list[str], cwd: Path, check: bool) -> None:
        asked.append(command)
        (cwd / train_emoji.ARCHIVE).touch()

    monkeypatch.setattr(subprocess, "run", npm)
    path = train_emoji.download(tmp_path)
    assert train_emoji.download(tmp_path) == path and path.parent == tmp_path
    assert asked == [["npm", "pack", "emoji-datasource-google@16.0.0"]]


def test_a_picture_shows_the_emoji_on_the_background_of_its_prompt(archive: Path) -> None:
    world = train_emoji.EmojiWorld(train_emoji.read_package(archive), random.Random(0))
    seen = set()
    for _ in range(60):
        picture, text = world.draw()
        assert picture.shape == (3, 32, 32) and 0 <= float(picture.min()) and float(picture.max()) <= 1
        colour = next((name for name in COLOURS if text.endswith(f"{name} background")), None)
        if colour:
            corner = torch.tensor(COLOURS[colour])
            assert torch.allclose(picture[:, 0, 0], corner, atol=0.03)
        if text.startswith("sun"):
            assert torch.allclose(picture[:, 16, 16], torch.tensor([0.0, 0.0, 1.0]), atol=0.02)
        seen.add(text.split(",")[0])
    assert {"waving hand", "sun", "hand fingers open", "sky weather"} <= seen


def test_a_training_ends_by_its_steps_or_by_its_time() -> None:
    path = Path("unused")
    assert FlowRun(10, path).share_done(5, began=-math.inf) == 0.5
    assert FlowRun(10, path).share_done(10, began=0) == 1
    assert FlowRun(10**9, path, seconds=1e-9).share_done(1, began=0) == 1


def test_a_training_in_small_makes_a_model_that_samples(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = f"--package {archive} --out {tmp_path} --steps 2 --batch 4 --device cpu".split()
    monkeypatch.setattr(sys, "argv", ["train_emoji.py", *arguments])
    train_emoji.main()
    assert "3 pictures" in capsys.readouterr().out
    model = load_emoji(tmp_path / "chords_emoji_flow.safetensors")
    assert [each.name for each in model.emoji] == ["waving hand", "waving hand", "sun"]
    with torch.no_grad():
        velocity = model.flow(torch.randn(1, *LATENT), torch.ones(1), encode_prompt("sun"))
        assert velocity.shape == (1, *LATENT) and bool(velocity.isfinite().all())
        assert model.latents.decode(velocity).shape == (1, 3, 32, 32)


def test_without_the_model_the_error_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="train_emoji.py"):
        load_emoji(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("script", "options"), [(train_emoji, ("--package", "--minutes")), (train_demo, ("--flow-steps", "--scenes"))]
)
def test_the_scripts_say_how_they_are_called(
    script: ModuleType, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--help"])
    with pytest.raises(SystemExit):
        script.main()
    told = capsys.readouterr().out
    assert all(option in told for option in options)
