"""The command that compares on a user's workflow: its statistics, variants and files, and what it says to bad input."""

from __future__ import annotations

import http.server
import io
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compare
import numpy as np
import pytest
from comfy_client import ClientError, ExecutionError, Run, UsageError
from comparison import figures, output, session
from comparison.figures import Round, advise, percentile, row_of
from comparison.page import page
from comparison.pictures import Difference, difference, spread
from comparison.report import as_json
from comparison.runs import Measured, measured, memory_in_use
from comparison.saved_to_api import to_api
from comparison.session import Session
from comparison.variants import STOCK, Peer, Variants, chosen, parse_peer, variants_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.tools.workflow_samples import saved_node, saved_workflow

Json = dict[str, Any]
SECONDS = st.floats(0.1, 100.0)
SAME = Difference(0.0, math.inf)


def _input(kind: Any, **options: Any) -> list[Any]:
    return [kind, options]


def _sampler_inputs() -> Json:
    return {
        "model": _input("MODEL"),
        "seed": _input("INT", default=0, control_after_generate=True),
        "steps": _input("INT", default=20),
        "latent_image": _input("LATENT"),
    }


def _class(required: Json, output: list[str], optional: Json | None = None, **more: Any) -> Json:
    return {"input": {"required": required, "optional": optional or {}}, "output": output, **more}


CLASSES = {
    "Loader": _class({"file": _input(["a.safetensors"])}, ["MODEL", "VAE"]),
    "Empty": _class({}, ["LATENT"]),
    "KSampler": _class(_sampler_inputs(), ["LATENT"]),
    "ChordsKSampler": _class(
        _sampler_inputs(),
        ["LATENT", "CHORDS_RUN"],
        {
            "devices": _input("CHORDS_DEVICE_SET"),
            "fidelity": _input("COMBO", options=["auto", "exact", "near"], default="auto"),
            "cores": _input("INT", default=0),
        },
    ),
    "ChordsDevices": _class({"devices": _input("STRING", default="auto")}, ["CHORDS_DEVICE_SET"]),
    "ChordsReport": _class({"run": _input("CHORDS_RUN")}, [], output_node=True),
    "VAEDecode": _class({"samples": _input("LATENT"), "vae": _input("VAE")}, ["IMAGE"]),
    "SaveImage": _class({"images": _input("IMAGE"), "prefix": _input("STRING", default="a")}, [], output_node=True),
    "PreviewImage": _class({"images": _input("IMAGE")}, [], output_node=True),
    "SaveVideo": _class({"video": _input("VIDEO")}, [], output_node=True),
    "CreateVideo": _class({"images": _input("IMAGE")}, ["VIDEO"]),
    "EasyCache": _class(
        {"model": _input("MODEL"), "reuse_threshold": _input("FLOAT", default=0.2), "verbose": _input("BOOLEAN")},
        ["MODEL"],
    ),
    "MultiGPU_WorkUnits": _class({"model": _input("MODEL"), "max_gpus": _input("INT", default=2)}, ["MODEL"]),
    "PrimitiveInt": _class({"value": _input("INT", control_after_generate=True)}, ["INT"]),
}


def _prompt(sampler: str = "KSampler", **inputs: Any) -> Json:
    return {
        "1": {"class_type": "Loader", "inputs": {"file": "a.safetensors"}},
        "2": {"class_type": "Empty", "inputs": {}},
        "3": {
            "class_type": sampler,
            "inputs": {"model": ["1", 0], "seed": 5, "steps": 20, "latent_image": ["2", 0], **inputs},
        },
        "4": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["1", 1]}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "prefix": "mine"}},
    }


# --- Statistics


@given(st.lists(SECONDS, min_size=1, max_size=12), st.floats(0, 1))
def test_percentiles_are_numpys(values: list[float], share: float) -> None:
    assert percentile(values, share) == pytest.approx(float(np.percentile(values, 100 * share)))


def test_a_percentile_needs_values() -> None:
    with pytest.raises(ValueError, match="needs values"):
        percentile([], 0.5)


def _round(seconds: float, rms: float = 0.0, **record: Any) -> Round:
    apart = Difference(rms, math.inf if rms == 0 else -20 * math.log10(rms))
    return Round(seconds, seconds + 1, seconds, apart, {"RAM": round(1e9 * seconds)}, record)


def test_speed_is_that_of_rounds_with_the_same_seed() -> None:
    """The time depends on the seed, so the medians of all runs would be of two pictures: 20 s and 18 s."""
    stock = {0: _round(10.0), 1: _round(100.0), 2: _round(20.0)}
    row = row_of("ours", {0: _round(18.0, 0.01), 1: _round(50.0, 0.03), 2: _round(10.0, 0.02)}, stock)
    assert row is not None
    assert row.speed == pytest.approx(2.0) and row.speed_90 == pytest.approx(1 / 1.54)  # time ratios 1.8, 0.5, 0.5
    assert row.seconds == 18 and row.overlaps
    assert row.worst == 0.03 and row.difference_90 == pytest.approx(0.028)
    assert row.psnr == pytest.approx(30.46, abs=0.01) and row.memory == {"RAM": 50_000_000_000}


def test_only_rounds_that_ksampler_has_too_count() -> None:
    assert row_of("ours", {1: _round(1.0)}, {0: _round(2.0)}) is None
    row = row_of("ours", {0: _round(1.0), 1: _round(50.0)}, {0: _round(2.0)})
    assert row is not None and row.rounds == 1 and row.speed == 2.0


@given(
    st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=6),
    st.floats(0, 0.05),
)
def test_the_recommendation_never_contradicts_its_runs(times: list[tuple[float, float]], rms: float) -> None:
    stock = {number: _round(each[0]) for number, each in enumerate(times)}
    ours = {number: _round(each[1], rms) for number, each in enumerate(times)}
    rows = [row for name, each in (("KSampler", stock), ("ours", ours)) if (row := row_of(name, each, stock))]
    advice = advise(rows, {"KSampler": stock, "ours": ours}, {"KSampler": False, "ours": True})
    if advice.place == 1:
        assert not rows[1].overlaps and rows[1].difference_90 < figures.limit() and rows[1].seconds < rows[0].seconds
        assert rows[1].name in advice.sentence
    else:
        assert not advice.sentence.startswith("Take")
    if max(each[1] for each in times) < 0.9 * min(each[0] for each in times) and rms < figures.limit():
        assert advice.place == 1


def _advised(stock: dict[int, Round], ours: dict[int, Round]) -> tuple[figures.Row, figures.Advice]:
    rows = [row for name, each in (("KSampler", stock), ("ours", ours)) if (row := row_of(name, each, stock))]
    return rows[1], advise(rows, {"KSampler": stock, "ours": ours}, {"KSampler": False, "ours": True})


def test_the_sentence_has_the_speed_of_the_table() -> None:
    """That of rounds with the same seed. The medians of all runs would say 11 s to 8 s: 1.38x."""
    stock = {0: _round(10.0), 1: _round(11.0), 2: _round(30.0)}
    row, advice = _advised(stock, {0: _round(2.0), 1: _round(8.0), 2: _round(9.0)})
    assert f"{row.speed:.2f}x" == "3.33x" and advice.place == 1 and "3.33x as fast" in advice.sentence


def test_a_round_that_was_stopped_counts_for_the_overlap() -> None:
    """KSampler's last run has no partner, and was as fast as ours: the table and the sentence say so."""
    row, advice = _advised({0: _round(3.0), 1: _round(1.0)}, {0: _round(1.5)})
    assert row.speed == 2.0 and row.overlaps and advice.place == 0 and "overlap" in advice.sentence


def test_what_saves_nothing_is_not_recommended() -> None:
    stock, ours = {0: _round(2.0)}, {0: _round(1.0)}
    rows = [row for name, each in (("KSampler", stock), ("ours", ours)) if (row := row_of(name, each, stock))]
    advice = advise(rows, {"KSampler": stock, "ours": ours}, {"KSampler": False, "ours": False})
    assert advice.place == 0
    assert any("one seed" in caution for caution in advice.cautions)


# --- Pictures


def _png(values: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_the_difference_of_pictures() -> None:
    grey = np.full((8, 8, 3), 100)
    half = grey.copy()
    half[:4] += 10
    assert difference([_png(grey)], [_png(grey)]) == SAME
    apart = difference([_png(half)], [_png(grey)])
    assert apart.rms == pytest.approx(math.sqrt(0.5) * 0.1)
    assert apart.psnr == pytest.approx(-20 * math.log10(math.sqrt(0.5) * 10 / 255))
    assert difference([_png(grey), _png(half)], [_png(grey)] * 2) == apart  # the worst of several
    assert difference([_png(grey)], [_png(grey[:4])]).rms == math.inf
    assert difference([_png(grey)], [_png(grey)] * 2).rms == math.inf
    assert difference([_png(half)], [_png(0 * grey)]).rms == math.inf  # nothing to compare with


def test_frames_of_a_video_are_spread_over_all_of_it() -> None:
    assert spread(range(81), 5) == [0, 20, 40, 60, 80]
    assert spread(range(3), 5) == [0, 1, 2]


# --- Runs


def _events(*events: tuple[float, str, Json]) -> Run:
    return Run("p", events=[(kind, data) for _, kind, data in events], times=[when for when, _, _ in events])


def test_what_a_run_shows() -> None:
    told = [
        (0.0, "execution_start", {}),
        (1.0, "executing", {"node": "3"}),
        (1.1, "chords", {"kind": "plan", "steps": 20, "method": "secant", "message": "2 cores", "devices": ["a", "b"]}),
        (1.5, "chords", {"kind": "picture", "index": 0}),
        (3.0, "chords", {"kind": "picture", "index": 1}),
        (6.0, "chords", {"kind": "done", "depth": 12, "evaluations": 22, "estimate": 0.01}),
        (6.0, "executing", {"node": "4"}),
        (7.0, "executing", {"node": None}),
    ]
    found = measured(_events(*told), ["3"], {"RAM": 1}, [b""])
    assert (found.seconds, found.whole, found.first) == (5.0, 7.0, 2.0)  # a draft is no first picture
    assert found.record["calls"] == 12 and found.record["steps"] == 20 and found.record["message"] == "2 cores"
    stock = measured(_events(*[each for each in told if each[1] != "chords"]), ["3"], {}, [])
    assert stock.first == 6.0 and stock.record == {}


def test_a_run_from_the_cache_or_without_events_is_refused() -> None:
    cached = _events((0.0, "execution_cached", {"nodes": ["1", "3"]}), (1.0, "executing", {"node": None}))
    with pytest.raises(UsageError, match="--first-seed"):
        measured(cached, ["3"], {}, [])
    with pytest.raises(UsageError, match="websockets"):
        measured(_events((0.0, "chords", {})), ["3"], {}, [])


def test_memory_of_devices() -> None:
    stats = {
        "system": {"ram_total": 10, "ram_free": 4},
        "devices": [
            {"name": "cuda:0 NVIDIA : native", "type": "cuda", "vram_total": 8, "vram_free": 3},
            {"name": "cpu", "type": "cpu", "vram_total": 10, "vram_free": 4},
        ],
    }
    assert memory_in_use(stats) == {"RAM": 6, "cuda:0 NVIDIA": 5}


# --- Variants


def test_the_variants_of_a_workflow() -> None:
    found = variants_of(_prompt(), CLASSES)
    names = [each.name for each in found.all]
    ours = [f"KSampler (CHORDS), {fidelity}" for fidelity in ("auto", "exact", "near")]
    assert names == ["KSampler", *ours, "EasyCache", "EasyCache (reuse_threshold 0.05)"]
    for variant in found.all:
        assert "5" not in variant.prompt  # nothing is saved on the server
        (shown,) = variant.picture_nodes
        assert variant.prompt[shown] == {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}}
    near = found.all[3].prompt["3"]
    assert near["class_type"] == "ChordsKSampler" and near["inputs"]["fidelity"] == "near"
    assert found.all[0].prompt["3"]["class_type"] == "KSampler"
    cached = found.all[5].prompt
    assert cached[cached["3"]["inputs"]["model"][0]]["inputs"] == {"model": ["1", 0], "reuse_threshold": 0.05}


def test_the_hosts_node_for_several_devices_needs_several() -> None:
    alone, several = variants_of(_prompt(), CLASSES), variants_of(_prompt(), CLASSES, devices=2)
    assert any("MultiGPU_WorkUnits" in note for note in alone.notes)
    assert "MultiGPU_WorkUnits" in [each.name for each in several.all]


def test_a_workflow_with_our_sampler_keeps_where_it_runs() -> None:
    prompt = _prompt("ChordsKSampler", devices=["6", 0], cores=3, fidelity="near", accept="first")
    prompt["6"] = {"class_type": "ChordsDevices", "inputs": {"devices": "cuda:1"}}
    prompt["7"] = {"class_type": "ChordsReport", "inputs": {"run": ["3", 1]}}
    found = {each.name: each.prompt for each in variants_of(prompt, CLASSES).all}
    assert found[STOCK]["3"]["inputs"].keys() == {"model", "seed", "steps", "latent_image"} and "6" not in found[STOCK]
    exact, own = found["KSampler (CHORDS), exact"], found["KSampler (CHORDS), as in the file"]
    assert exact["3"]["inputs"]["devices"] == ["6", 0] and exact["3"]["inputs"]["cores"] == 3
    assert exact["6"]["inputs"] == {"devices": "cuda:1"} and "7" not in exact
    assert exact["3"]["inputs"]["fidelity"] == "exact" and "accept" not in exact["3"]["inputs"]
    assert own["3"]["inputs"]["accept"] == "first" and own["3"]["inputs"]["fidelity"] == "near"


def test_seeds_are_moved_where_they_are_set() -> None:
    prompt = _prompt(seed=["6", 0])
    prompt["6"] = {"class_type": "PrimitiveInt", "inputs": {"value": 2**64 - 1}}
    stock = variants_of(prompt, CLASSES).all[0]
    assert stock.at(0)["6"]["inputs"]["value"] == 2**64 - 1 and stock.at(3)["6"]["inputs"]["value"] == 2
    assert stock.at(3)["3"]["inputs"]["seed"] == ["6", 0]


def test_pictures_of_a_video_come_from_its_decoder() -> None:
    prompt = _prompt()
    prompt["5"] = {"class_type": "CreateVideo", "inputs": {"images": ["4", 0]}}
    prompt["6"] = {"class_type": "SaveVideo", "inputs": {"video": ["5", 0]}}
    stock = variants_of(prompt, CLASSES).all[0]
    (shown,) = stock.picture_nodes
    assert stock.prompt[shown]["inputs"]["images"] == ["4", 0] and "6" not in stock.prompt


def test_a_peer_of_the_user() -> None:
    peer = parse_peer("EasyCache:reuse_threshold=0.1,verbose=true", CLASSES)
    assert peer == Peer("EasyCache", (("reuse_threshold", 0.1), ("verbose", True)))
    for text, said in {
        "TeaCache": "the server has no node 'TeaCache'",
        "VAEDecode": "does not take a MODEL",
        "EasyCache:speed=2": "'speed' is not an input of EasyCache; it has model, reuse_threshold, verbose",
    }.items():
        with pytest.raises(UsageError, match=said):
            parse_peer(text, CLASSES)


def test_a_peer_that_is_tried_anyway_is_tried_once() -> None:
    again = parse_peer("EasyCache:reuse_threshold=0.05", CLASSES)
    names = [each.name for each in variants_of(_prompt(), CLASSES, peers=[again, again]).all]
    assert names.count("EasyCache (reuse_threshold 0.05)") == 1


def test_notes_are_of_what_is_compared() -> None:
    found = variants_of(_prompt(), CLASSES)
    assert [note.split()[0] for note in found.notes] == ["MultiGPU_WorkUnits", "EasyCache"]
    assert chosen(found, ["near"]).notes == ()
    assert [note.split()[0] for note in chosen(found, ["EasyCache"]).notes] == ["EasyCache"]


def test_variants_by_a_word() -> None:
    found = variants_of(_prompt(), CLASSES)
    assert [each.name for each in chosen(found, ["near", "easycache (r"]).all] == [
        "KSampler",
        "KSampler (CHORDS), near",
        "EasyCache (reuse_threshold 0.05)",
    ]
    with pytest.raises(
        UsageError, match=r"no variant has 'nearer' in its name; there are: KSampler; KSampler \(CHORDS\)"
    ):
        chosen(found, ["nearer"])


def _without(prompt: Json, *nodes: str) -> Json:
    return {name: node for name, node in prompt.items() if name not in nodes}


@pytest.mark.parametrize(
    ("prompt", "classes", "said"),
    [
        (_without(_prompt(), "3"), CLASSES, "other samplers cannot be compared"),
        (_without(_prompt(), "4", "5"), CLASSES, "decodes what its sampler makes"),
        (_prompt(seed=["2", 0]), CLASSES, "no sampler of the workflow has a seed"),
        (_prompt(), _without(CLASSES, "ChordsKSampler"), r"the server has no KSampler \(CHORDS\)"),
    ],
)
def test_a_workflow_that_cannot_be_compared(prompt: Json, classes: Json, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        variants_of(prompt, classes)


# --- Workflows of the page


def _linked(node: Json, **links: int) -> Json:
    known = CLASSES.get(node["type"], {}).get("input", {"required": {}})
    specs = {**known["required"], **known.get("optional", {})}
    node["inputs"] = [
        {"name": name, "type": specs.get(name, ["*"])[0], "link": links.get(name)}
        for name in links.keys() | specs.keys()
    ]
    return node


def _page(**more: Json) -> list[Json]:
    """The nodes of `_prompt` as the page saves them."""
    nodes = {
        "loader": saved_node(1, "Loader", widgets_values=["a.safetensors"]),
        "empty": saved_node(2, "Empty"),
        "sampler": _linked(saved_node(3, "KSampler", widgets_values=[5, "randomize", 20]), model=1, latent_image=2),
        "decode": _linked(saved_node(4, "VAEDecode"), samples=3, vae=4),
        "save": _linked(saved_node(5, "SaveImage", widgets_values=["mine"]), images=5),
    }
    return list((nodes | more).values())


LINKS = [
    [1, 1, 0, 3, 0, "MODEL"],
    [2, 2, 0, 3, 1, "LATENT"],
    [3, 3, 0, 4, 0, "LATENT"],
    [4, 1, 1, 4, 1, "VAE"],
    [5, 4, 0, 5, 0, "IMAGE"],
]


def _converted(nodes: list[Json], links: list[list[Any]] = LINKS, subgraphs: list[Json] | None = None) -> Json:
    found = to_api(saved_workflow(nodes, links, subgraphs), CLASSES)
    assert not found.faults
    return {name: {key: node[key] for key in ("class_type", "inputs")} for name, node in found.prompt.items()}


def test_a_saved_workflow_as_a_prompt() -> None:
    assert _converted(_page()) == _prompt()


def test_a_file_of_an_older_version_gets_the_defaults_of_new_inputs() -> None:
    sampler = _linked(saved_node(3, "KSampler", widgets_values=[5, "randomize"]), model=1, latent_image=2)
    assert _converted(_page(sampler=sampler)) == _prompt(steps=20)


def test_what_only_the_page_has_is_followed() -> None:
    """A reroute on the model, a primitive for the steps, a bypassed and a muted node."""
    primitive = saved_node(7, "PrimitiveNode", widgets_values=[8, "fixed"])
    reroute = saved_node(8, "Reroute")
    reroute["inputs"] = [{"name": "", "type": "*", "link": 11}]
    bypassed = _linked(saved_node(9, "EasyCache", widgets_values=[0.2, False], mode=4), model=1)
    bypassed["outputs"] = [{"name": "MODEL", "type": "MODEL", "links": [11]}]
    sampler = _linked(
        saved_node(3, "KSampler", widgets_values=[5, "randomize", 20]), model=10, latent_image=2, steps=12
    )
    muted = _linked(saved_node(6, "SaveImage", widgets_values=["no"], mode=2), images=5)
    links = [*LINKS[1:], [1, 1, 0, 9, 0, "MODEL"], [11, 9, 0, 8, 0, "MODEL"], [10, 8, 0, 3, 0, "MODEL"]]
    links.append([12, 7, 0, 3, 2, "INT"])
    nodes = _page(sampler=sampler, primitive=primitive, reroute=reroute, bypassed=bypassed, muted=muted)
    assert _converted(nodes, links) == _prompt(steps=8)


def test_subgraphs_are_opened() -> None:
    """The samplers' inputs come from outside, its steps from the node of the subgraph, or else from within."""
    inner = {
        "id": "sub",
        "name": "sub",
        "nodes": [_linked(saved_node(3, "KSampler", widgets_values=[5, "fixed", 20]), model=1, latent_image=2)],
        "links": [
            {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 3, "target_slot": 0, "type": "MODEL"},
            {"id": 2, "origin_id": -10, "origin_slot": 1, "target_id": 3, "target_slot": 1, "type": "LATENT"},
            {"id": 3, "origin_id": 3, "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "LATENT"},
        ],
        "inputs": [{"name": "model", "type": "MODEL"}, {"name": "latent", "type": "LATENT"}],
        "outputs": [{"name": "LATENT", "type": "LATENT"}],
    }
    instance = saved_node(9, "sub")
    instance["inputs"] = [
        {"name": "model", "type": "MODEL", "link": 1},
        {"name": "latent", "type": "LATENT", "link": 2},
    ]
    links = [[1, 1, 0, 9, 0, "MODEL"], [2, 2, 0, 9, 1, "LATENT"], [3, 9, 0, 4, 0, "LATENT"], *LINKS[3:]]

    def expected(steps: int) -> Json:
        prompt = _prompt(steps=steps)
        prompt["9:3"] = prompt.pop("3")
        prompt["4"]["inputs"]["samples"] = ["9:3", 0]
        return prompt

    assert _converted(_page(sampler=instance), links, [inner]) == expected(20)
    instance |= {"widgets_values": [8], "properties": {"proxyWidgets": [["3", "steps"]]}}
    assert _converted(_page(sampler=instance), links, [inner]) == expected(8)


def test_what_cannot_be_converted_is_named() -> None:
    of_another_version = _linked(saved_node(3, "KSampler", widgets_values=[5, "fixed", 20, 1.0]), model=1)
    page_only = saved_node(7, "GetNode", widgets_values=["model"])
    faults = to_api(saved_workflow(_page(sampler=of_another_version, more=page_only), LINKS), CLASSES).faults
    assert faults["3"].startswith("node 3 (KSampler): it has a value more") and "Export (API)" in faults["3"]
    assert faults["7"].startswith("node 7 (GetNode): the server does not have it") and "Export (API)" in faults["7"]


# --- Files


def _result(tmp_name: str = "flow.json", **more: Any) -> session.Result:
    stock = {0: _round(2.0), 1: _round(2.2)}
    ours = {0: _round(1.0, 0.004, message="one device", calls=11, steps=20), 1: _round(1.1, 0.3)}
    rows = [row for name, each in (("KSampler", stock), ("<ours>", ours)) if (row := row_of(name, each, stock))]
    rounds = {"KSampler": stock, "<ours>": ours}
    conditions = compare.conditions_of(
        {"system": {}, "devices": []}, variants_of(_prompt(), CLASSES).all[0], "", "", "1"
    )
    conditions |= {"workflow": tmp_name, "command": "c", "first_seed": 7, "rounds": 2, "rounds_wanted": 3}
    shown = {0: {"KSampler": ["data:image/jpeg;base64,A"], "<ours>": ["data:image/jpeg;base64,B"]}}
    advice = advise(rows, rounds, {"KSampler": False, "<ours>": True})
    return session.Result(tuple(rows), advice, rounds, {"Cache": "no <memory>"}, shown, conditions, ("a note",), False)


def test_the_page_is_complete_by_itself() -> None:
    result = _result("<script>alert(1)</script>.json")
    text = page(result)
    assert "<script>alert" not in text and "&lt;ours&gt;" in text and "no &lt;memory&gt;" in text
    assert "https:" not in text and 'src="data:' in text and "@import" not in text
    assert "Stopped before the end" in text and "a note" in text and "Seed 7" in text
    assert result.advice.sentence.split(":")[0].replace("<", "&lt;").replace(">", "&gt;")[:20] in text


def test_the_figures_are_json() -> None:
    found = json.loads(json.dumps(as_json(_result()), allow_nan=False))
    assert found["complete"] is False and found["failed"] == {"Cache": "no <memory>"}
    stock, ours = found["rows"]
    assert stock["psnr"] is None and [run["seconds"] for run in ours["runs"]] == [1.0, 1.1]
    assert ours["worst"] == 0.3 and ours["calls"] == 11 and found["conditions"]["models"] == ["a.safetensors"]


def test_the_conditions_have_the_settings_of_each_node_and_no_prompt() -> None:
    prompt = _prompt(seed=9)
    prompt["2"]["inputs"] = {"width": 64, "text": "a secret"}
    prompt["8"] = {"class_type": "CFGGuider", "inputs": {"model": ["1", 0], "cfg": 3.5}}
    prompt["3"]["inputs"]["guider"] = ["8", 0]
    stock = variants_of(prompt, CLASSES).all[0]
    told = compare.conditions_of({"system": {}, "devices": []}, stock, "", "", "1")
    settings = {key: value for each in told["settings"] for key, value in each.items()}
    assert settings == {"seed": 9, "steps": 20, "width": 64, "cfg": 3.5} and "secret" not in json.dumps(told)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "comparison.json"
    output.write(path, b"old")

    def broken(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(output.os, "replace", broken)
    with pytest.raises(OSError, match="full"):
        output.write(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


# --- A session without a server


class _Idle:
    """A server whose queue is empty, apart from what others have put into it."""

    def __init__(self, *others: Any) -> None:
        self.others = list(others)

    def get_json(self, _path: str) -> Json:
        return {"queue_running": [], "queue_pending": self.others}


Answers = Any


def _session(monkeypatch: pytest.MonkeyPatch, answer: Answers, seeds: int = 3) -> tuple[Session, list[tuple[str, int]]]:
    """A session whose runs are answered by ``answer(name, offset)``, and the runs that it has made."""
    runs: list[tuple[str, int]] = []

    def run_once(_client: object, variant: Any, offset: int, _limit: float) -> Measured:
        runs.append((variant.name, offset))
        return answer(variant.name, offset)

    monkeypatch.setattr(session, "run_once", run_once)
    found: Variants = chosen(variants_of(_prompt(), CLASSES), ["near", "EasyCache"])
    return Session(_Idle(), found, seeds, 1.0, lambda _line: None), runs  # type: ignore[arg-type]


PICTURE = _png(np.full((4, 4, 3), 90))


def _answer(name: str, _offset: int) -> Measured:
    return Measured(2.0 if name == STOCK else 1.0, 3.0, 2.0, pictures=(PICTURE,), record={"calls": 8, "steps": 20})


def test_variants_take_turns_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    one, runs = _session(monkeypatch, _answer)
    one.warm_up()
    one.rounds(lambda result: None)
    names = [each.name for each in one.variants.all]
    assert runs[:4] == [(name, 3) for name in names]  # a seed that does not count
    for number in range(3):
        of_round = runs[4 * (number + 1) : 4 * (number + 2)]
        assert sorted(of_round) == sorted((name, number) for name in names)
        assert of_round[0][0] == names[number]
    result = one.result()
    assert result.complete and [row.rounds for row in result.rows] == [3] * 4 and result.advice.place > 0


def test_the_work_of_others_is_said_with_the_recommendation(monkeypatch: pytest.MonkeyPatch) -> None:
    one, _runs = _session(monkeypatch, _answer)
    one.client = _Idle(["another prompt"])  # type: ignore[assignment]
    one.warm_up()
    one.rounds(lambda result: None)
    assert any("Other prompts" in caution for caution in one.result().advice.cautions)


def test_what_is_left_becomes_less(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 10))  # each run takes 10 s by this clock
    monkeypatch.setattr(session.time, "monotonic", lambda: float(next(clock)))
    one, _runs = _session(monkeypatch, _answer, seeds=2)
    said: list[str] = []
    one.say = said.append
    one.warm_up()
    one.rounds(lambda result: None)
    left = [line.split("about ")[1].split(" left")[0] for line in said if " left: " in line]
    assert left == ["1 min", "1 min", "1 min", "50 s", "40 s", "30 s", "20 s", "10 s"]


def test_a_variant_that_fails_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(name: str, offset: int) -> Measured:
        if name == "EasyCache":
            raise ExecutionError("node 9 (EasyCache) failed: no memory")
        return _answer(name, offset)

    one, runs = _session(monkeypatch, answer)
    one.warm_up()
    one.rounds(lambda result: None)
    result = one.result()
    assert [name for name, _ in runs].count("EasyCache") == 1
    assert "EasyCache" not in [row.name for row in result.rows] and "no memory" in result.failed["EasyCache"]
    assert any("could not be measured: EasyCache (node 9" in caution for caution in result.advice.cautions)


def test_without_ksampler_there_is_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(_name: str, _offset: int) -> Measured:
        raise ExecutionError("node 3 failed")

    one, _runs = _session(monkeypatch, answer)
    with pytest.raises(ClientError, match="KSampler as it is in the workflow: node 3 failed"):
        one.warm_up()


def test_a_stop_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of the round that goes on, where KSampler has run in it."""

    def answer(name: str, offset: int) -> Measured:
        if offset == 0 and name == "EasyCache":
            raise KeyboardInterrupt
        return _answer(name, offset)

    one, _runs = _session(monkeypatch, answer)
    one.warm_up()
    with pytest.raises(KeyboardInterrupt):
        one.rounds(lambda result: None)
    result = one.result()
    assert not result.complete and [row.name for row in result.rows] == ["KSampler", "KSampler (CHORDS), near"]


# --- The command


@pytest.fixture
def host() -> Iterator[tuple[str, list[str]]]:
    """The address of something that describes itself as ComfyUI does and runs nothing; the prompts that it was sent."""
    sent: list[str] = []
    answers = {"/object_info": CLASSES, "/system_stats": {"system": {}, "devices": []}}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers.get(self.path, {})).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            sent.append(self.path)
            self.send_error(500)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", sent
        server.shutdown()


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("{", [], "flow.json is not JSON"),
        ("{}", [], "flow.json: not a workflow: it is empty"),
        (json.dumps({"prompt": _prompt()}), [], "holds one under 'prompt'"),
        (json.dumps(_without(_prompt(), "4", "5")), [], "decodes what its sampler makes"),
        (json.dumps(saved_workflow([saved_node(7, "GetNode")], [])), [], "node 7 (GetNode)"),
        (json.dumps(saved_workflow([saved_node(7, "Loader") | {"inputs": [{"widget": {}}]}], [])), [], "are damaged"),
        (json.dumps(_prompt()), ["--variants", "nearer"], "no variant has 'nearer'"),
        (json.dumps(_prompt()), ["--peer", "TeaCache"], "--peer TeaCache: the server has no node"),
        (json.dumps(_prompt()), ["--set", "3.stepz=4"], "node 3 (KSampler) has no input 'stepz'"),
        (json.dumps(_prompt(model=["6", 0]) | {"6": {"class_type": "Other", "inputs": {}}}), [], "node 6 (Other)"),
    ],
)
def test_bad_input_is_named_before_anything_runs(
    host: tuple[str, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    more: list[str],
    said: str,
) -> None:
    address, sent = host
    file = tmp_path / "flow.json"
    file.write_text(text, encoding="utf-8")
    assert compare.main([str(file), "--server", address, "--output", str(tmp_path / "out"), *more]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ") and said in told.err and "Traceback" not in told.err
    assert not sent and not list((tmp_path / "out").glob("comparison*"))


def test_a_folder_that_cannot_be_written_is_named_before_anything_runs(
    host: tuple[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, sent = host
    file = tmp_path / "flow.json"
    file.write_text(json.dumps(_prompt()), encoding="utf-8")
    assert compare.main([str(file), "--server", address, "--output", str(file)]) == 2
    assert f"--output {file}: no files can be written there" in capsys.readouterr().err and not sent


def test_no_server_and_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([str(tmp_path / "none.json")]) == 2
    assert "cannot read" in capsys.readouterr().err
    file = tmp_path / "flow.json"
    file.write_text(json.dumps(_prompt()), encoding="utf-8")
    arguments = [str(file), "--server", "127.0.0.1:1", "--output", str(tmp_path / "out")]
    assert compare.main(arguments) == 3
    assert "no answer from http://127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--seeds", "0"], ["--seeds", "two"], ["--server", "ftp://a"], ["--timeout", "-1"]])
def test_options_that_cannot_be(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        compare.parse_options(["flow.json", *wrong])
    assert caught.value.code == 2 and wrong[0] in capsys.readouterr().err


def test_ctrl_c_writes_what_there_is(
    host: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_once(_client: object, variant: Any, offset: int, _limit: float) -> Measured:
        if offset == 1:
            raise KeyboardInterrupt
        return _answer(variant.name, offset)

    monkeypatch.setattr(session, "run_once", run_once)
    file = tmp_path / "flow.json"
    file.write_text(json.dumps(_prompt()), encoding="utf-8")
    out = tmp_path / "out"
    assert compare.main([str(file), "--server", host[0], "--seeds", "4", "--output", str(out)]) == 130
    told = capsys.readouterr()
    assert "stopped" in told.err and str(out / "comparison.html") in told.out
    assert json.loads((out / "comparison.json").read_text(encoding="utf-8"))["complete"] is False
    assert "Stopped before the end" in (out / "comparison.html").read_text(encoding="utf-8")
