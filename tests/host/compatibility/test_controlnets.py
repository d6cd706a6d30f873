"""ControlNets and T2I adapters in parallel: each lane has its own, the picture is prepared once, nothing is left.

The pictures are compared with the stock sampler's, bit for bit. What the tests count is counted in the host's code.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch
from client import ComfyClient, ExecutionError, Interrupted
from graphs import Graph, Node, demo, empty_latent, lanes, settings

from tests.host.compatibility.parallel_rows import (
    STEPS,
    Sampled,
    add_parallel,
    check_parallel,
    is_close,
    on_model,
)

_SALTS = count(6400)  # the host does not run again what it has run

Controls = Callable[[Graph, dict[str, Any]], None]
"""Applies ControlNets to a sampler's prompts."""


def controlled(kind: str, seed: int = 1, **changes: Any) -> Controls:
    """One ControlNet; ``changes``: of the node that applies it, ``how``: see TestControlNet, ``encoded``: by a VAE."""
    how, encoded = changes.pop("how", ""), changes.pop("encoded", False)

    def apply(graph: Graph, sampling: dict[str, Any]) -> None:
        control = graph.add("TestControlNet", kind=kind, seed=seed, how=how, salt=next(_SALTS))
        if kind == "flux_modes":
            control = graph.add("SetUnionControlNetType", control_net=control, type="depth")
        inputs = {"strength": 0.6, "start_percent": 0.0, "end_percent": 1.0, **changes}
        inputs |= {"positive": sampling["positive"], "negative": sampling["negative"], "control_net": control}
        inputs["image"] = graph.add("TestImage", red=0.9, green=0.2, blue=0.1, broken=False)
        if encoded:
            inputs["vae"] = graph.add("TestCountedVae", vae=[_loader(graph), 1])
        if kind == "flux_inpaint":
            mask = graph.add("SolidMask", value=0.7, width=128, height=128)
            applied = graph.add("ControlNetInpaintingAliMamaApply", **inputs, mask=mask)
        else:
            applied = graph.add("ControlNetApplyAdvanced", **inputs)
        sampling["positive"], sampling["negative"] = applied[0], applied[1]

    return apply


def _loader(graph: Graph) -> str:
    return next(name for name, node in graph.nodes.items() if node["class_type"] == "ChordsDemoModel")


def chain(*controls: Controls) -> Controls:
    """Several ControlNets, each after the one before."""

    def apply(graph: Graph, sampling: dict[str, Any]) -> None:
        for control in controls:
            control(graph, sampling)

    return apply


def old_apply(graph: Graph, sampling: dict[str, Any]) -> None:
    """The deprecated node, which gives the ControlNet to the negative prompt as well."""
    control = graph.add("TestControlNet", kind="flux", seed=1, how="", salt=next(_SALTS))
    image = graph.add("TestImage", red=0.9, green=0.2, blue=0.1, broken=False)
    given = {"conditioning": sampling["positive"], "control_net": control, "image": image, "strength": 0.6}
    sampling["positive"] = graph.add("ControlNetApply", **given)


def same_network(graph: Graph, sampling: dict[str, Any]) -> None:
    """One ControlNet at two strengths: in the positive and in the negative prompt, each with a picture of its own."""
    control = graph.add("TestControlNet", kind="flux", seed=1, how="", salt=next(_SALTS))
    for side, strength in (("positive", 0.9), ("negative", 0.3)):
        image = graph.add("TestImage", red=strength, green=0.2, blue=0.1, broken=False)
        given = {"control_net": control, "image": image, "start_percent": 0.0, "end_percent": 1.0}
        applied = graph.add(
            "ControlNetApplyAdvanced",
            positive=sampling[side],
            negative=sampling[side],
            strength=strength,
            **given,
        )
        sampling[side] = applied[0]


def masked(graph: Graph, sampling: dict[str, Any]) -> None:
    """A prompt with a ControlNet for a part of the picture, by a mask, and one without for all of it."""
    plain = sampling["positive"]
    controlled("flux")(graph, sampling)
    nowhere = graph.add("SolidMask", value=0.0, width=128, height=128)
    left = graph.add("SolidMask", value=0.6, width=64, height=128)
    mask = graph.add("MaskComposite", destination=nowhere, source=left, x=0, y=0, operation="add")
    how = {"strength": 1.0, "set_cond_area": "mask bounds"}
    limited = graph.add("ConditioningSetMask", conditioning=sampling["positive"], mask=mask, **how)
    sampling["positive"] = graph.add("ConditioningCombine", conditioning_1=limited, conditioning_2=plain)


def areas(graph: Graph, sampling: dict[str, Any]) -> None:
    """A prompt for an area has its picture in another size; the host prepares it again in each call."""
    area = {"width": 0.5, "height": 1.0, "x": 0.0, "y": 0.0, "strength": 1.0}
    left = graph.add("ConditioningSetAreaPercentage", conditioning=sampling["positive"], **area)
    sampling["positive"] = graph.add("ConditioningCombine", conditioning_1=left, conditioning_2=sampling["positive"])
    controlled("flux_encoded", encoded=True)(graph, sampling)


def batch(graph: Graph, sampling: dict[str, Any]) -> None:
    """Two latents, and a picture for each."""
    sampling["latent_image"] = empty_latent(graph, 2)
    two_pictures(graph, sampling)


def two_pictures(graph: Graph, sampling: dict[str, Any]) -> None:
    control = graph.add("TestControlNet", kind="flux", seed=1, how="", salt=next(_SALTS))
    one, two = (graph.add("TestImage", red=red, green=0.2, blue=0.1, broken=False) for red in (0.9, 0.1))
    applied = graph.add(
        "ControlNetApplyAdvanced",
        **{name: sampling[name] for name in ("positive", "negative")},
        control_net=control,
        image=graph.add("ImageBatch", image1=one, image2=two),
        strength=0.6,
        start_percent=0.0,
        end_percent=1.0,
    )
    sampling["positive"], sampling["negative"] = applied[0], applied[1]


def nothing(graph: Graph, sampling: dict[str, Any]) -> None:
    pass


def flux(graph: Graph, controls: Controls, **changes: Any) -> Sampled:
    sampling = demo(graph) | settings(steps=STEPS) | {"latent_image": empty_latent(graph)} | changes
    controls(graph, sampling)
    return lambda chords: graph.add("ChordsKSampler" if chords else "KSampler", **sampling, **chords)


def unet(graph: Graph, controls: Controls, **changes: Any) -> Sampled:
    loader = graph.add("TestUNet", seed=1)
    negative = graph.add("ConditioningZeroOut", conditioning=loader[1])
    sampling = settings(steps=STEPS) | {"model": loader[0], "positive": loader[1], "negative": negative} | changes
    sampling["latent_image"] = graph.add("EmptyLatentImage", width=128, height=128, batch_size=1)
    controls(graph, sampling)
    return lambda chords: graph.add("ChordsKSampler" if chords else "KSampler", **sampling, **chords)


FLUX: dict[str, Controls] = {
    "one": controlled("flux"),
    "strong": controlled("flux", strength=1.7),
    "range": controlled("flux", start_percent=0.2, end_percent=0.7),
    "chain": chain(controlled("flux"), controlled("flux", seed=2, strength=0.3, end_percent=0.5)),
    "old": old_apply,
    "batch": batch,
    "encoded": controlled("flux_encoded", encoded=True),
    "union": controlled("flux_modes", encoded=True),
    "inpaint": controlled("flux_inpaint", encoded=True),
    "areas": areas,
    "same_network": same_network,
    "masked": masked,
    "hooks": controlled("flux", how="hooks"),
    "after_a_patch_of_a_pack": chain(controlled("flux"), on_model("TestPatch", kind="scaled")),
}
UNET: dict[str, Controls] = {
    "one": controlled("unet"),
    "range": controlled("unet", start_percent=0.1, end_percent=0.6),
    "chain": chain(controlled("unet"), controlled("unet", seed=2, strength=0.3)),
    "adapter": controlled("adapter"),
    "adapter_in_chain": chain(controlled("adapter", end_percent=0.7), controlled("unet", strength=0.4)),
}
ROWS = [(flux, name, control) for name, control in FLUX.items()]
ROWS += [(unet, name, control) for name, control in UNET.items()]


@pytest.mark.parametrize(
    ("sampled", "controls"), [row[::2] for row in ROWS], ids=[f"{row[0].__name__}-{row[1]}" for row in ROWS]
)
def test_controlnets_in_parallel(run_graph, sampled: Callable[..., Sampled], controls: Controls) -> None:
    graph = Graph()
    add_parallel(graph, sampled(graph, controls))
    plain_latent = {"latent_image": empty_latent(graph, 2)} if controls is batch else {}
    graph.save("plain", sampled(graph, nothing, **plain_latent)({}))
    _, latents = run_graph(graph)
    assert not is_close(check_parallel(latents), latents["plain"])  # the ControlNet does something


# --- what is done once, and what is left


def _watched(client: ComfyClient) -> dict[str, Any]:
    """What ControlNets did since the last call, and what is left of them."""
    graph = Graph()
    node = graph.add("TestWatchControls", salt=next(_SALTS))
    found = client.run(graph.nodes).outputs[node.name]
    return {name: values[0] for name, values in found.items()}


def _wait_until_nothing_is_left(client: ComfyClient, what: str) -> None:
    """A call that is being made when a prompt ends keeps what it uses until it is done."""
    end = time.monotonic() + 60
    while (left := _watched(client)[what]) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == 0


def _run(
    run_graph, sampled: Callable[..., Sampled], controls: Controls, **ours: Any
) -> tuple[dict[str, Any], Any, Any]:
    """The record of a run with these inputs, its latent and the stock latent; ``model``: a node around the model."""
    changes = ours.pop("changes", {})
    model = ours.pop("model", None)
    graph = Graph()

    def applied(graph: Graph, sampling: dict[str, Any]) -> None:
        controls(graph, sampling)
        if model is not None:
            sampling["model"] = graph.add(model.pop("class_type"), model=sampling["model"], **model)

    sample = sampled(graph, applied, seed=next(_SALTS), **changes)
    ours = {key: value(graph) if callable(value) else value for key, value in ours.items()}
    node = sample(ours)
    graph.save("ours", node)
    graph.save("stock", sample({}))
    run, latents = run_graph(graph)
    return run.outputs[node.name]["chords"][0], latents["ours"], latents["stock"]


def _lanes(count: int, split: str = "off") -> Callable[[Graph], Node]:
    return lambda graph: lanes(graph, count, split)


EXACT = {"cores": 4, "accept": "exact", "devices": _lanes(4)}


@pytest.mark.parametrize(
    ("sampled", "controls", "counts"),
    [
        (flux, FLUX["one"], {"prepared main": 1}),
        (flux, FLUX["chain"], {"prepared main": 2}),
        (flux, FLUX["encoded"], {"prepared main": 1, "encoded main": 1}),
        (flux, FLUX["areas"], {"prepared main": 2, "encoded main": 2}),
        (unet, UNET["adapter_in_chain"], {"prepared main": 2, "adapted main": 1}),
    ],
    ids=["one", "chain", "encoded", "areas", "adapter_in_chain"],
)
def test_a_picture_is_prepared_once_a_run_and_nothing_is_left(
    run_graph, client: ComfyClient, sampled: Callable[..., Sampled], controls: Controls, counts: dict[str, int]
) -> None:
    """Once for each size, before the lanes begin."""
    _watched(client)
    graph = Graph()
    node = sampled(graph, controls, seed=next(_SALTS))({key: _in(graph, value) for key, value in EXACT.items()})
    graph.save("ours", node)
    run, _ = run_graph(graph)
    assert len(run.outputs[node.name]["chords"][0]["devices"]) == 4
    found = _watched(client)
    assert found["counts"] == counts
    assert found["left"] == found["hints"] == 0


def _in(graph: Graph, value: Any) -> Any:
    return value(graph) if callable(value) else value


def test_copies_of_networks_are_gone_when_the_host_frees_its_memory(run_graph, client: ComfyClient) -> None:
    _run(run_graph, flux, FLUX["one"], **EXACT)
    assert _watched(client)["alive"] >= 4
    client.post("/free", {"unload_models": True, "free_memory": True})
    _wait_until_nothing_is_left(client, "alive")


# --- errors and cancels


def _failing(lanes: str, how: str = "raise", from_call: int = 1) -> dict[str, Any]:
    given = {"lanes": lanes, "how": how, "from_call": from_call, "salt": next(_SALTS)}
    return {"class_type": "TestFailingControl", **given}


@pytest.fixture
def whole_again(client: ComfyClient):
    yield
    graph = Graph()
    model = graph.add("TestFailingControl", model=[graph.add("ChordsDemoModel").name, 0], **_inputs_of(_failing("")))
    graph.save(
        "latent",
        graph.add("KSampler", **demo(graph) | {"model": model}, **settings(steps=1), latent_image=empty_latent(graph)),
    )
    client.run(graph.nodes)


def _inputs_of(node: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in node.items() if name != "class_type"}


@pytest.mark.parametrize("failing", ["0", "1", "1,3"])
def test_an_error_of_a_controlnet_in_a_lane_costs_time_only(run_graph, whole_again: None, failing: str) -> None:
    summary, ours, stock = _run(run_graph, flux, FLUX["one"], **EXACT, model=_failing(failing))
    assert len(summary["lost_lanes"]) == len(failing.split(","))
    assert all("the ControlNet of lane" in lost for lost in summary["lost_lanes"])
    assert torch.equal(ours, stock)


@pytest.fixture
def hang_is_over(client: ComfyClient):
    """Ends all hanging calls and says which threads are left; also after the test."""

    def over() -> list[str]:
        graph = Graph()
        node = graph.add("TestHangIsOver", salt=next(_SALTS))
        threads: list[str] = client.run(graph.nodes).outputs[node.name]["threads"]
        return threads

    yield over
    over()


def test_a_controlnet_that_hangs_in_a_lane_costs_time_only(
    run_graph, client: ComfyClient, whole_again: None, hang_is_over
) -> None:
    """The next run has no part of that lane, as its call still works with the lane's network. Nothing is left."""
    summary, ours, stock = _run(run_graph, flux, FLUX["encoded"], **EXACT, model=_failing("1", "hang"))
    assert "cpu:1" in " ".join(summary["lost_lanes"]) and torch.equal(ours, stock)
    summary, ours, stock = _run(run_graph, flux, FLUX["encoded"], **EXACT, model=_failing(""))
    assert "cpu:1" not in summary["devices"] and len(summary["devices"]) > 1 and torch.equal(ours, stock)
    assert not any("chords-lane" in name for name in hang_is_over())
    for what in ("left", "hints"):
        _wait_until_nothing_is_left(client, what)


def test_an_error_of_a_controlnet_in_all_lanes_is_told(run_graph, client: ComfyClient, whole_again: None) -> None:
    with pytest.raises(ExecutionError, match="the ControlNet of lane [0-3] is broken on purpose"):
        _run(run_graph, flux, FLUX["encoded"], **EXACT, model=_failing("0,1,2,3"))
    _wait_until_nothing_is_left(client, "hints")


def test_after_a_cancel_in_a_controlnet_the_next_run_is_right(
    run_graph, client: ComfyClient, whole_again: None
) -> None:
    with pytest.raises(Interrupted):  # by whichever lane is the first: on a busy machine one may be too late for a call
        _run(run_graph, flux, FLUX["encoded"], **EXACT, model=_failing("0,1,2,3", "cancel"))
    _wait_until_nothing_is_left(client, "hints")
    _, ours, stock = _run(run_graph, flux, FLUX["encoded"], **EXACT, model=_failing(""))
    assert torch.equal(ours, stock)


# --- other ways to run


def test_previews_are_shown_meanwhile(run_graph) -> None:
    vae = {"preview_vae": lambda graph: [_loader(graph), 1]}
    summary, ours, stock = _run(run_graph, flux, FLUX["encoded"], **EXACT, **vae)
    assert summary["cores"] == 4 and torch.equal(ours, stock)


def test_a_second_stage_of_another_size_in_the_same_graph(run_graph) -> None:
    """The same ControlNet, whose picture is prepared for each stage."""
    graph = Graph()
    sampling = demo(graph) | settings(seed=next(_SALTS), steps=STEPS)
    FLUX["encoded"](graph, sampling)
    given = {key: _in(graph, value) for key, value in EXACT.items()}
    nodes = []
    for kind, ours in (("ChordsKSampler", given), ("KSampler", {})):
        first = graph.add(kind, **sampling, latent_image=empty_latent(graph), **ours)
        size = {"width": 192, "height": 160, "upscale_method": "nearest-exact", "crop": "disabled"}
        larger = graph.add("LatentUpscale", samples=first, **size)
        nodes.append(graph.add(kind, **sampling | {"denoise": 0.6}, latent_image=larger, **ours))
    graph.save("ours", nodes[0])
    graph.save("stock", nodes[1])
    run, latents = run_graph(graph)
    assert len(run.outputs[nodes[0].name]["chords"][0]["devices"]) == 4
    assert torch.equal(latents["ours"], latents["stock"])


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_calls_are_made(run_graph, count: int) -> None:
    ours = {"fidelity": "near", **({"devices": _lanes(count)} if count > 1 else {})}
    summary, found, stock = _run(run_graph, flux, FLUX["one"], changes={"steps": 20}, **ours)
    assert summary["depth"] < 20 and not torch.equal(found, stock)
    assert float((found - stock).norm() / stock.norm()) < 0.05


@pytest.mark.parametrize("count", [1, 2])
def test_where_a_controlnet_ends_every_step_is_called(run_graph, count: int) -> None:
    """As where a prompt ends."""
    ours = {"fidelity": "near", **({"devices": _lanes(count)} if count > 1 else {})}
    summary, found, stock = _run(run_graph, flux, FLUX["range"], changes={"steps": 20}, **ours)
    assert "a ControlNet applies to a part of the steps only, and every step is called" in summary["message"]
    assert torch.equal(found, stock)


ROUNDING = 1e-4  # of the latent's norm, in single precision


@pytest.mark.parametrize("solver", ["euler", "euler_ancestral"])
@pytest.mark.parametrize(("sampled", "name"), [(flux, "encoded"), (flux, "chain"), (unet, "adapter_in_chain")])
def test_two_devices_share_guided_calls(run_graph, sampled: Callable[..., Sampled], name: str, solver: str) -> None:
    """Each evaluates one side, with an instance of its own."""
    given = {"cores": 1, "devices": _lanes(2, "guidance")}
    controls = (FLUX if sampled is flux else UNET)[name]
    summary, ours, stock = _run(run_graph, sampled, controls, **given, changes={"sampler_name": solver})
    assert summary["devices"] == ["cpu+cpu:1"] and "share each guided call" in summary["message"]
    assert not summary["lost_lanes"]
    assert float((ours - stock).norm() / stock.norm()) < ROUNDING


def test_four_cores_of_two_devices_each(run_graph) -> None:
    given = {"cores": 4, "accept": "exact", "devices": _lanes(8, "guidance")}
    summary, ours, stock = _run(run_graph, flux, FLUX["chain"], **given)
    assert len(summary["devices"]) == 4 and all("+" in name for name in summary["devices"])
    assert not summary["lost_lanes"] and float((ours - stock).norm() / stock.norm()) < ROUNDING


# --- what runs on one core


@pytest.mark.parametrize(
    ("solver", "given"),
    [
        ("euler", {"cores": 4, "accept": "first", "devices": _lanes(4)}),
        ("euler", {"cores": 1, "devices": _lanes(2, "guidance")}),
        ("euler_ancestral", {"cores": 1, "devices": _lanes(2, "guidance")}),
    ],
    ids=["lanes", "guidance", "guidance of a stock sampler"],
)
def test_pictures_that_lanes_cannot_have(run_graph, solver: str, given: dict[str, Any]) -> None:
    """That is found when the picture is prepared, after the plan."""
    summary, ours, stock = _run(run_graph, flux, two_pictures, **given, changes={"sampler_name": solver})
    assert summary["devices"] == ["cpu"] and summary["cores"] == 1
    assert "a ControlNet has several pictures" in summary["message"]
    assert torch.equal(ours, stock)


@pytest.mark.parametrize(
    ("controls", "reason"),
    [
        (controlled("flux", how="class"), "the ControlNet OwnControl has code of the pack"),
        (controlled("flux", how="method"), "replaces get_control of a ControlNet"),
        (controlled("flux", how="part"), "of a ControlNet may keep state between calls"),
    ],
    ids=["class", "method", "part"],
)
def test_controlnets_that_packs_change_run_on_one_core(run_graph, controls: Controls, reason: str) -> None:
    summary, ours, stock = _run(run_graph, flux, controls, cores=4, accept="first", devices=_lanes(4))
    assert summary["cores"] == 1 and reason in summary["message"]
    assert torch.equal(ours, stock)


def test_a_patch_that_passed_its_trial_is_tried_again_with_a_controlnet(run_graph) -> None:
    """It makes calls of other sizes, for which lanes have no picture."""
    for controls, cores in ((nothing, 4), (FLUX["encoded"], 1), (nothing, 4)):
        summary, ours, stock = _run(run_graph, flux, chain(controls, on_model("TestPatch", kind="in_halves")), **EXACT)
        assert summary["cores"] == cores and torch.equal(ours, stock), summary["message"]
    assert "patches of" not in summary["message"]
