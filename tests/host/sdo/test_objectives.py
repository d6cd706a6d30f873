"""The objective nodes: their values and gradients are right, a search improves each, and bad input is named."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from client import ClientError, ComfyClient, Run
from graphs import Graph, Node, demo
from searches import small_latent

ITERATIONS, STEPS = 3, 4
MakeObjective = Callable[[Graph], Node]


def _image(graph: Graph, **changes: Any) -> Node:
    return graph.add("TestImage", **{"red": 0.2, "green": 0.5, "blue": 0.8, "broken": False, **changes})


def _vision(graph: Graph, width: int = 16) -> Node:
    return graph.add("TestTinyClipVision", width=width, seed=0)


def _clip(graph: Graph, width: int = 16, width_g: int = 0, projection: float = 1.0) -> Node:
    return graph.add("TestTinyClip", width=width, width_g=width_g, projection=projection, seed=0)


def _mask(graph: Graph, value: float = 1.0) -> Node:
    return graph.add("TestMask", value=value)


def _reference(graph: Graph, **options: Any) -> Node:
    return graph.add("SDOObjectiveReference", image=_image(graph), **options)


def _text(graph: Graph, text: str = "a red circle", vision: int = 16, **clip: Any) -> Node:
    inputs = {"clip": _clip(graph, **clip), "clip_vision": _vision(graph, vision)}
    return graph.add("SDOObjectiveText", **inputs, text=text)


def _aesthetic(graph: Graph, file: str = "tiny_aesthetic.safetensors", vision: int = 16, **options: Any) -> Node:
    return graph.add("SDOObjectiveAesthetic", clip_vision=_vision(graph, vision), file=file, **options)


def _preference(graph: Graph, file: str = "tiny_aesthetic.safetensors", vision: int = 16, **options: Any) -> Node:
    return graph.add("SDOObjectivePreference", clip_vision=_vision(graph, vision), file=file, **options)


def _preference_for(graph: Graph, text: str = "a red circle", **options: Any) -> Node:
    """By a head that takes picture and text."""
    return _preference(graph, "tiny_preference.safetensors", clip=_clip(graph), text=text, **options)


def _combined(graph: Graph) -> Node:
    parts = {"objective_1": _contrast(graph), "weight_1": 2.0, "objective_3": _reference(graph), "weight_3": -0.5}
    return graph.add("SDOObjectiveCombine", **parts)


def _combined_with(graph: Graph, objective: Node) -> Node:
    return graph.add("SDOObjectiveCombine", objective_1=_contrast(graph), objective_2=objective)


def _contrast(graph: Graph, **options: Any) -> Node:
    return graph.add("SDOObjectiveContrast", **options)


def _given(kind: str, value: float) -> MakeObjective:
    return lambda graph: graph.add(f"SDOObjective{kind}", aim="the given value", value=value)


def _least(kind: str) -> MakeObjective:
    return lambda graph: graph.add(f"SDOObjective{kind}", aim="as little as possible")


OBJECTIVES: dict[str, MakeObjective] = {
    "reference": _reference,
    "reference, L1": lambda graph: _reference(graph, distance="L1"),
    "reference, latent": lambda graph: _reference(graph, space="latent"),
    "similarity": lambda graph: graph.add("SDOObjectiveSimilarity", clip_vision=_vision(graph), image=_image(graph)),
    "text": _text,
    "style": lambda graph: graph.add("SDOObjectiveStyle", image=_image(graph), clip_vision=_vision(graph)),
    "style, VAE": lambda graph: graph.add("SDOObjectiveStyle", image=_image(graph)),
    "colour": lambda graph: graph.add("SDOObjectiveColour", colour="#0000ff"),
    "colour, mask": lambda graph: graph.add("SDOObjectiveColour", colour="#00ff00", mask=_mask(graph)),
    "brightness": lambda graph: graph.add("SDOObjectiveBrightness", brightness=0.9, mask=_mask(graph)),
    "contrast": _contrast,
    "contrast, least": _least("Contrast"),
    "contrast, given": _given("Contrast", 0.4),
    "sharpness": lambda graph: graph.add("SDOObjectiveSharpness"),
    "sharpness, least": _least("Sharpness"),
    "sharpness, given": _given("Sharpness", 0.5),
    "aesthetic": _aesthetic,
    "preference": _preference,
    "preference, text": _preference_for,
    "preference, over": lambda graph: _preference_for(graph, preferred_over=_image(graph)),
    "combine": _combined,
}

NODES = (
    "Reference",
    "Similarity",
    "Text",
    "Style",
    "Colour",
    "Brightness",
    "Contrast",
    "Sharpness",
    "Aesthetic",
    "Preference",
    "Combine",
)


@pytest.mark.parametrize("name", NODES)
def test_node_is_there_with_its_output_and_tooltips(client: ComfyClient, name: str) -> None:
    info = client.object_info(f"SDOObjective{name}")[f"SDOObjective{name}"]
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    assert all(spec[1].get("tooltip") for spec in inputs.values())
    assert info["output"] == ["SDO_OBJECTIVE"]
    assert info["output_tooltips"][0]
    assert info["display_name"].startswith("SDO Objective: ")
    assert info["category"] == "CHORDS/SDO"
    assert info["description"]


def test_heads_are_listed_whatever_their_extension(client: ComfyClient) -> None:
    """The host's own list of that folder has only files without one."""
    options = client.object_info("SDOObjectiveAesthetic")["SDOObjectiveAesthetic"]["input"]["required"]["file"]
    files = options[1]["options"] if options[0] == "COMBO" else options[0]
    assert {"tiny_aesthetic.safetensors", "tiny_aesthetic.pth"} <= set(files)


def _slopes(client: ComfyClient, makes: list[MakeObjective], *prompts: str, frames: int = 1) -> list[dict[str, Any]]:
    """Each objective at the same sample of the demo model.

    ``prompts``: of its two items, or none are known; ``frames``: of the video that each item is.
    """
    graph = Graph()
    latent = small_latent(graph, batch=2)
    inputs = demo(graph)
    sampling = {"seed": 3, "steps": STEPS, "cfg": 3.5, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    sample = graph.add("KSampler", **inputs, **sampling, latent_image=latent)
    vae = [inputs["model"][0], 1]
    inputs = {"vae": vae, "latent": sample, "prompts": "\n".join(prompts), "frames": frames}
    nodes = [graph.add("TestSlope", objective=make(graph), **inputs) for make in makes]
    outputs = client.run(graph.nodes).outputs
    return [outputs[node.name] for node in nodes]


def test_gradients_are_those_measured(client: ComfyClient) -> None:
    for name, found in zip(OBJECTIVES, _slopes(client, list(OBJECTIVES.values())), strict=True):
        assert len(found["values"]) == 2, name
        assert found["slope"][0] > 1e-5, name
        assert found["measured"][0] == pytest.approx(found["slope"][0], rel=0.1), name


def test_values_are_what_the_descriptions_say(client: ComfyClient) -> None:
    names = [
        "reference",
        "contrast",
        "contrast, least",
        "contrast, given",
        "combine",
        "similarity",
        "text",
        "aesthetic",
    ]
    found = dict(zip(names, (f["values"] for f in _slopes(client, [OBJECTIVES[name] for name in names])), strict=True))
    for item in range(2):
        value = {name: values[item] for name, values in found.items()}
        assert 0 < value["reference"] < 1
        assert -0.5 <= value["contrast"] < 0
        assert value["contrast, least"] == pytest.approx(-value["contrast"])
        assert value["contrast, given"] == pytest.approx((0.4 + value["contrast"]) ** 2, rel=1e-4)
        assert value["combine"] == pytest.approx(2 * value["contrast"] - 0.5 * value["reference"], rel=1e-4)
        assert 0 <= value["similarity"] <= 2
        assert 0 <= value["text"] <= 2
        assert -8 < value["aesthetic"] < -2  # the head's bias is 5


def test_text_is_taken_into_the_space_of_pictures(client: ComfyClient) -> None:
    """For SD1 the host gives the text before the projection, of the same width. A projection of -1 reverses it."""
    same, turned = _slopes(client, [_text, lambda graph: _text(graph, projection=-1.0)])
    assert turned["values"] == pytest.approx([2 - value for value in same["values"]], abs=1e-4)


def test_text_is_taken_by_the_encoder_that_fits(client: ComfyClient) -> None:
    """Of SDXL's two by clip_g for a wider CLIP-Vision, by clip_l otherwise."""
    makes = [
        lambda graph, vision=vision, projection=projection: _text(
            graph, vision=vision, projection=projection, width_g=24
        )
        for vision in (16, 24)
        for projection in (1.0, -1.0)
    ]
    by_l, by_l_turned, by_g, by_g_too = (found["values"] for found in _slopes(client, makes))
    assert by_l_turned == pytest.approx([2 - value for value in by_l], abs=1e-4)
    assert by_g_too == by_g  # the reversed projection is that of clip_l


def test_each_picture_is_compared_with_its_own_prompt(client: ComfyClient) -> None:
    """Where the text has {prompt}; in a combination too. A text without it is the same for all."""
    circle, square = "a red circle", "a large blue square, at night"
    texts = ["a photo of {prompt}", f"a photo of {circle}", f"a photo of {square}"]
    makes: list[MakeObjective] = [lambda graph, text=text: _text(graph, text) for text in texts]
    makes.append(lambda graph: graph.add("SDOObjectiveCombine", objective_1=_text(graph, texts[0]), weight_1=2.0))
    found = _slopes(client, makes, circle, square)
    own, of_circle, of_square, combined = (part["values"] for part in found)
    assert abs(of_circle[1] - of_square[1]) > 1e-3
    assert own == pytest.approx([of_circle[0], of_square[1]], abs=1e-5)
    assert combined == pytest.approx([2 * value for value in own], abs=1e-5)
    assert found[0]["measured"][0] == pytest.approx(found[0]["slope"][0], rel=0.1)


def test_each_frame_of_a_video_has_the_prompt_of_its_item(client: ComfyClient) -> None:
    """An item of three equal frames has the value of its picture."""
    makes: list[MakeObjective] = [
        lambda graph: _text(graph, "{prompt}"),
        lambda graph: _preference_for(graph, "{prompt}"),
    ]
    prompts = "a red circle", "a large blue square, at night"
    pictures, videos = _slopes(client, makes, *prompts), _slopes(client, makes, *prompts, frames=3)
    for picture, video in zip(pictures, videos, strict=True):
        assert video["values"] == pytest.approx(picture["values"], abs=1e-5)


def test_a_prompt_that_is_not_known_as_text_is_refused(client: ComfyClient) -> None:
    """The optimizer's prompts are conditionings. It says so before any model call."""
    makes: list[MakeObjective] = [
        lambda graph: _text(graph, "{prompt}"),
        lambda graph: _preference_for(graph, "{prompt}"),
        lambda graph: _combined_with(graph, _text(graph, "{prompt}")),
    ]
    for make in makes:
        with pytest.raises(ClientError, match=r"\btext: has \{prompt\}.*conditionings.*Write"):
            _optimised(client, make)


def test_a_head_is_read_from_either_format(client: ComfyClient) -> None:
    safetensors, pth = _slopes(client, [_aesthetic, lambda graph: _aesthetic(graph, "tiny_aesthetic.pth")])
    assert pth["values"] == safetensors["values"]


def test_a_preference_is_the_difference_of_two_scores(client: ComfyClient) -> None:
    """Alone, minus the head's score. Over a picture, log(1 + exp(r - score)) with the same score r of that picture."""

    def over(graph: Graph) -> Node:
        return _preference(graph, preferred_over=_image(graph), activation="none")

    by_head, alone, preferred = (found["values"] for found in _slopes(client, [_aesthetic, _preference, over]))
    assert alone == pytest.approx(by_head, rel=1e-5)
    of_picture = [math.log(math.expm1(value)) - minus for value, minus in zip(preferred, alone, strict=True)]
    assert of_picture[0] == pytest.approx(of_picture[1], abs=1e-4)
    assert abs(alone[0] - alone[1]) > 2e-3


def test_a_preference_is_for_the_text_or_each_picture_s_prompt(client: ComfyClient) -> None:
    """The head is one layer, so another text adds the same to the score of every picture."""
    circle, square = "a red circle", "a large blue square, at night"
    makes: list[MakeObjective] = [
        lambda graph, text=text: _preference_for(graph, text) for text in ("{prompt}", circle, square)
    ]
    own, of_circle, of_square = (found["values"] for found in _slopes(client, makes, circle, square))
    assert own == pytest.approx([of_circle[0], of_square[1]], abs=1e-5)
    added = [one - other for one, other in zip(of_circle, of_square, strict=True)]
    assert added[0] == pytest.approx(added[1], abs=1e-4)
    assert abs(added[0]) > 0.01


def _refusal(client: ComfyClient, make: MakeObjective) -> str:
    graph = Graph()
    graph.add("TestObjective", objective=make(graph))
    with pytest.raises(ClientError) as raised:
        client.run(graph.nodes)
    return str(raised.value)


def _colour(colour: Any, mask: float | None = None) -> MakeObjective:
    def make(graph: Graph) -> Node:
        inputs = {} if mask is None else {"mask": _mask(graph, mask)}
        return graph.add("SDOObjectiveColour", colour=colour, **inputs)

    return make


def _broken(kind: str) -> MakeObjective:
    def make(graph: Graph) -> Node:
        vision = {} if kind == "Reference" else {"clip_vision": _vision(graph)}
        return graph.add(f"SDOObjective{kind}", image=_image(graph, broken=True), **vision)

    return make


def _alone(weight: float) -> MakeObjective:
    return lambda graph: graph.add("SDOObjectiveCombine", objective_1=_contrast(graph), weight_1=weight)


BAD: dict[str, tuple[MakeObjective, str, str]] = {
    "mask, empty": (_colour("#0000ff", 0.0), "mask", "empty"),
    "mask, above 1": (_colour("#0000ff", 1.5), "mask", "0..1"),
    "mask, below 0": (_colour("#0000ff", -0.5), "mask", "0..1"),
    "colour, a word": (_colour("blue"), "colour", "#ff0000"),
    "colour, short": (_colour("#12345"), "colour", "hexadecimal"),
    "colour, no digits": (_colour("#gg0000"), "colour", "hexadecimal"),
    "colour, a number": (_colour(255), "colour", "hexadecimal"),
    "image, reference": (_broken("Reference"), "image", "NaN"),
    "image, similarity": (_broken("Similarity"), "image", "NaN"),
    "image, style": (_broken("Style"), "image", "NaN"),
    "text, empty": (lambda graph: _text(graph, "  "), "text", "empty"),
    "clip, another width": (lambda graph: _text(graph, vision=32), "clip", "32 values.*clip_l with 16.*ViT-L/14"),
    "clip, no width fits": (
        lambda graph: _text(graph, vision=32, width_g=24),
        "clip",
        "clip_l with 16, clip_g with 24",
    ),
    "clip, two fit": (lambda graph: _text(graph, width_g=16), "clip", "several"),
    "clip, no projection": (lambda graph: _text(graph, projection=0.0), "clip", "projection.*Load CLIP"),
    "file, no head": (lambda graph: _aesthetic(graph, "no_head.safetensors"), "file", "linear layers"),
    "head of another width": (lambda graph: _aesthetic(graph, vision=32), "clip_vision", "32 values.*takes 16"),
    "preference, no head": (lambda graph: _preference(graph, "no_head.safetensors"), "file", "linear layers"),
    "preference, another width": (
        lambda graph: _preference(graph, "tiny_preference.safetensors", 24),
        "clip_vision",
        "24 values.*takes 32.*gives 32, or 16",
    ),
    "preference, no text encoder": (
        lambda graph: _preference(graph, "tiny_preference.safetensors"),
        "clip",
        "32 values.*text encoder",
    ),
    "preference, no text": (lambda graph: _preference_for(graph, " "), "text", "empty"),
    "preference, over NaN": (
        lambda graph: _preference(graph, preferred_over=_image(graph, broken=True)),
        "preferred_over",
        "NaN",
    ),
    "weight, all 0": (_alone(0.0), "weight_1", "0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name(client: ComfyClient, name: str) -> None:
    make, where, what = BAD[name]
    message = _refusal(client, make)
    assert re.search(rf"\b{where}: .*{what}", message), message


def test_unknown_options_are_refused_before_anything_runs(client: ComfyClient) -> None:
    assert "file" in _refusal(client, lambda graph: _aesthetic(graph, "gone.safetensors"))
    assert "brightness" in _refusal(client, lambda graph: graph.add("SDOObjectiveBrightness", brightness=1.5))
    assert "objective_1" in _refusal(client, lambda graph: graph.add("SDOObjectiveCombine", weight_1=1.0))


def _optimised(client: ComfyClient, make: MakeObjective, **changes: Any) -> tuple[Run, dict[str, Any]]:
    graph = Graph()
    inputs = demo(graph)
    latent = small_latent(graph)
    settings = {"seed": 5, "cfg": 3.5, "iterations": ITERATIONS, "lr": 0.05, "steps": STEPS, **changes}
    node = graph.add(
        "SDOLatentOptimizer",
        **inputs,
        **settings,
        vae=[inputs["model"][0], 1],
        latent=latent,
        objective=make(graph),
        sampler_name="euler",
        scheduler="simple",
    )
    text = graph.add("PreviewAny", source=node[3])
    run = client.run(graph.nodes)
    return run, json.loads(run.outputs[text.name]["text"][0])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_objective_goes_down(client: ComfyClient, name: str) -> None:
    _, figures = _optimised(client, OBJECTIVES[name])
    (first,), (best,) = figures["objective"]["first"], figures["objective"]["best"]
    assert best < first
