"""The demo's parts: pictures that show their prompt, a check that can tell, prompts that encode the same everywhere."""

from __future__ import annotations

import random

import pytest
import torch

from demo.autoencoder import Autoencoder, autoencoder_from_state, taesd_state
from demo.content import find, largest_patch, matches
from demo.flow import Flow
from demo.prompts import TOKENS, WIDTH, encode_prompt
from demo.scenes import COLOURS, SHAPES, Scene, Thing, describe, draw, parse, random_scene


def test_prompt_says_what_the_scene_is() -> None:
    rng = random.Random(0)
    for _ in range(200):
        scene = random_scene(rng)
        assert parse(describe(scene)) == scene


def test_check_finds_what_was_drawn_and_nothing_else() -> None:
    rng = random.Random(1)
    for _ in range(40):
        scene, other = random_scene(rng), random_scene(rng)
        picture = draw(scene, rng)
        assert matches(picture, describe(scene))
        named = {(thing.shape, thing.colour) for thing in other.things}
        if not named <= {(thing.shape, thing.colour) for thing in scene.things}:
            assert not matches(picture, describe(other))


@pytest.mark.parametrize("shape", SHAPES)
def test_check_tells_shapes_apart(shape: str) -> None:
    picture = draw(Scene((Thing(shape, "red", "big", "center"),), "white"))
    for other in SHAPES:
        assert matches(picture, f"a big red {other}") == (other == shape)
    for colour in COLOURS:
        assert matches(picture, f"a big {colour} {shape}") == (colour == "red")


def test_check_is_not_fooled_by_an_empty_or_noisy_picture() -> None:
    assert not matches(torch.full((3, 128, 128), 0.5), "a red circle")
    assert not matches(torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0)), "a red circle")
    assert not matches(torch.rand(3, 128, 128), "nothing that can be checked")
    assert find(torch.zeros(3, 128, 128), "a blue star")[0].shape is None


def test_largest_patch_is_connected() -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[0, 0] = mask[1, 1] = mask[2, 2] = True
    mask[5:7, 5] = True
    assert largest_patch(mask).nonzero().tolist() == [[0, 0], [1, 1], [2, 2]]
    assert not largest_patch(torch.zeros(4, 4, dtype=torch.bool)).any()


def test_prompts_encode_the_same_on_every_machine() -> None:
    # Any change of these numbers makes the trained files meaningless.
    encoded = encode_prompt("a big red circle on the left, blue background")
    assert encoded.shape == (1, TOKENS, WIDTH)
    expected = torch.tensor([-0.8749870, 0.5636654, 0.8688557, -1.0668863])
    assert torch.allclose(encoded[0, 0, :4], expected, atol=1e-5)


def test_prompts_differ_where_words_do_and_any_text_encodes() -> None:
    assert torch.equal(encode_prompt("A Red circle"), encode_prompt("the red circle!"))
    assert not torch.equal(encode_prompt("red circle"), encode_prompt("circle red"))
    assert not torch.equal(encode_prompt("red circle, blue star"), encode_prompt("red star, blue circle"))
    empty = encode_prompt("")
    assert torch.equal(empty, encode_prompt(" ,. the "))
    assert encode_prompt("word " * 50).shape == empty.shape
    assert encode_prompt("日本語 ünïcödé 🙂").isfinite().all()


def test_autoencoder_file_computes_what_the_autoencoder_does() -> None:
    torch.manual_seed(0)
    model = Autoencoder().eval()
    stock = autoencoder_from_state(taesd_state(model, torch.float32))
    pictures = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        latents = model.encode(pictures)
        assert latents.shape == (2, 16, 4, 4)
        assert torch.allclose(stock.encode(pictures), latents, atol=1e-5)
        assert torch.allclose(stock.decode(latents), model.decode(latents), atol=1e-5)


def test_flow_starts_at_zero_velocity_and_uses_all_its_inputs() -> None:
    torch.manual_seed(0)
    flow = Flow(double=1, single=1)
    x, t, context = torch.randn(2, 16, 8, 8), torch.tensor([0.2, 0.9]), torch.randn(2, TOKENS, WIDTH)
    assert torch.equal(flow(x, t, context), torch.zeros_like(x))
    for parameter in flow.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    velocity = flow(x, t, context)
    assert not torch.equal(flow(x, t.flip(0), context), velocity)
    assert not torch.equal(flow(x, t, context.flip(0)), velocity)
