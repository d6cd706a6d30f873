"""The small graphs whose pictures are in the help pages of the nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PROMPT = "a big red circle on the left, blue background"


@dataclass(frozen=True)
class Node:
    """A node of a small graph.

    Attributes:
        name: its name in links.
        type: the id of the node type.
        widgets: values of its widgets, by name.
        collapsed: whether only its title is shown.
    """

    name: str
    type: str
    widgets: tuple[tuple[str, Any], ...] = ()
    collapsed: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The node for the script in the page."""
        return {"name": self.name, "type": self.type, "widgets": dict(self.widgets), "collapsed": self.collapsed}


@dataclass(frozen=True)
class Graph:
    """A small graph.

    Attributes:
        columns: its nodes in columns from left to right.
        links: its links, such as "model.MODEL > sampler.model".
        runs: whether it is run before the picture is taken.
    """

    columns: tuple[tuple[Node, ...], ...]
    links: tuple[str, ...]
    runs: bool = False

    def link_list(self) -> list[list[str]]:
        """The links as [from, output, to, input]."""
        return [[part for end in link.split(" > ") for part in end.split(".", 1)] for link in self.links]


def node(name: str, type: str, collapsed: bool = False, **widgets: Any) -> Node:
    """A node, with the values of its widgets as keywords."""
    return Node(name, type, tuple(widgets.items()), collapsed)


MODEL = node("model", "ChordsDemoModel")
POSITIVE = node("positive", "ChordsDemoPrompt", text=PROMPT)
NEGATIVE = node("negative", "ChordsDemoPrompt", text="")
LATENT = node("latent", "EmptySD3LatentImage", width=128, height=128)
DECODE, PREVIEW = node("decode", "VAEDecode", True), node("preview", "PreviewImage")
LANES = node("devices", "ChordsDevices", cpu_lanes=4)
SAMPLING: dict[str, Any] = {"steps": 20, "cfg": 3.5, "sampler_name": "euler", "scheduler": "simple"}
SEED: dict[str, Any] = {"seed": 7, "control_after_generate": "fixed"}
TRAINING: dict[str, Any] = {"layers": "all linear", "iterations": 25, "lr": 0.005, "batch": 6, "steps": 10}
TRAINING |= {"hold": 0.1, "keep": "7, 9, 10"}  # as in the workflow sdo_lora_blue_background
NOISE_SEED: dict[str, Any] = {"noise_seed": 7, "control_after_generate": "fixed"}
CONDITIONS = ("positive.CONDITIONING > sampler.positive", "negative.CONDITIONING > sampler.negative")
WIRES = ("model.MODEL > sampler.model", *CONDITIONS, "latent.LATENT > sampler.latent_image")
DECODED = ("sampler.LATENT > decode.samples", "model.VAE > decode.vae", "decode.IMAGE > preview.images")
INPUTS = (MODEL, POSITIVE, NEGATIVE, LATENT)
FOLDED = tuple(node(each.name, each.type, True, **dict(each.widgets)) for each in INPUTS)
ON_LANES = (*FOLDED, node("devices", "ChordsDevices", True, cpu_lanes=4))
OPTIMIZED = ("model.MODEL > optimizer.model", "latent.LATENT > optimizer.latent") + tuple(
    link.replace("sampler", "optimizer") for link in CONDITIONS
)


def _sampled(*after: Node, links: tuple[str, ...]) -> Graph:
    """A run on four lanes, and the nodes ``after`` it that show it."""
    sampler = node("sampler", "ChordsKSampler", True, **SAMPLING, **SEED, fidelity="exact", cores=4)
    wires = (*WIRES, "devices.CHORDS_DEVICE_SET > sampler.devices")
    return Graph((ON_LANES, (sampler,), after), (*wires, *links), runs=True)


def _objective(type: str, *sources: tuple[str, str, str, str], **widgets: Any) -> Graph:
    """An objective and the nodes of its inputs: (type, output, input, name)."""
    feeding = tuple(node(name, kind, True) for kind, _output, _input, name in sources)
    links = tuple(f"{name}.{output} > objective.{slot}" for _kind, output, slot, name in sources)
    objective, optimizer = node("objective", type, **widgets), node("optimizer", "SDOLatentOptimizer", True)
    columns = ((feeding,) if feeding else ()) + ((objective,), (optimizer,))
    return Graph(columns, (*links, "objective.objective > optimizer.objective"))


IMAGE = ("LoadImage", "IMAGE", "image", "image")
MASK = ("LoadImage", "MASK", "mask", "mask")
VISION = ("CLIPVisionLoader", "CLIP_VISION", "clip_vision", "vision")
HEADS = ("sa_0_4_vit_l_14_linear.pth", "preference_vit_l_14.safetensors")  # files that can be chosen

GRAPHS = {
    "ChordsKSampler": Graph(
        (ON_LANES, (node("sampler", "ChordsKSampler", **SAMPLING, **SEED),), (DECODE, PREVIEW)),
        (*WIRES, *DECODED, "devices.CHORDS_DEVICE_SET > sampler.devices"),
        runs=True,
    ),
    "ChordsKSamplerAdvanced": Graph(
        (ON_LANES, (node("sampler", "ChordsKSamplerAdvanced", **SAMPLING, **NOISE_SEED),), (DECODE, PREVIEW)),
        (*WIRES, *DECODED, "devices.CHORDS_DEVICE_SET > sampler.devices"),
        runs=True,
    ),
    "ChordsSampler": Graph(
        (
            (node("method", "ChordsSampler"), node("sigmas", "BasicScheduler", steps=20)),
            (node("custom", "SamplerCustom", cfg=3.5, **NOISE_SEED),),
        ),
        ("method.SAMPLER > custom.sampler", "sigmas.SIGMAS > custom.sigmas"),
    ),
    "ChordsScheduler": Graph(
        (
            (MODEL,),
            (node("sigmas", "ChordsScheduler"), node("method", "KSamplerSelect", sampler_name="dpmpp_2m")),
            (node("custom", "SamplerCustom", cfg=3.5, **NOISE_SEED),),
        ),
        (
            "model.MODEL > sigmas.model",
            "model.MODEL > custom.model",
            "sigmas.SIGMAS > custom.sigmas",
            "method.SAMPLER > custom.sampler",
        ),
    ),
    "ChordsDevices": Graph(
        ((LANES,), (node("sampler", "ChordsKSampler", **SAMPLING, **SEED),)),
        ("devices.CHORDS_DEVICE_SET > sampler.devices",),
    ),
    "ChordsStreamPreview": _sampled(
        node("show", "ChordsStreamPreview"), links=("sampler.CHORDS_RUN > show.run", "model.VAE > show.vae")
    ),
    "ChordsReport": _sampled(node("show", "ChordsReport"), links=("sampler.CHORDS_RUN > show.run",)),
    "ChordsBenchmark": Graph(
        (ON_LANES, (node("sampler", "ChordsBenchmark", **SAMPLING, **SEED, cores="2, 4", repeats=1),), (PREVIEW,)),
        (
            *WIRES,
            "model.VAE > sampler.vae",
            "devices.CHORDS_DEVICE_SET > sampler.devices",
            "sampler.IMAGE > preview.images",
        ),
        runs=True,
    ),
    "ChordsDemoModel": Graph(
        ((MODEL,), (node("sampler", "ChordsKSampler", True), DECODE)),
        ("model.MODEL > sampler.model", "model.VAE > decode.vae"),
    ),
    "ChordsDemoPrompt": Graph(((POSITIVE, NEGATIVE), (node("sampler", "ChordsKSampler", True),)), CONDITIONS),
    "SDOLatentOptimizer": Graph(
        (
            (*FOLDED, node("objective", "SDOObjectiveColour", colour="#0000ff")),
            (node("optimizer", "SDOLatentOptimizer", cfg=4.0, iterations=10, **SEED),),
            (node("preview", "PreviewImage"),),
        ),
        (
            *OPTIMIZED,
            "model.VAE > optimizer.vae",
            "objective.objective > optimizer.objective",
            "optimizer.CURVE > preview.images",
        ),
        runs=True,
    ),
    "SDOTrainLoRA": Graph(
        (
            (
                node("model", "ChordsDemoModel", True),
                node("star", "ChordsDemoPrompt", True, text="a big yellow star in the center"),
                node("square", "ChordsDemoPrompt", True, text="a big red square in the center"),
                node("negative", "ChordsDemoPrompt", True, text=""),
                node("latent", "EmptySD3LatentImage", True, width=128, height=128),
                node("all", "SolidMask", True, value=1.0, width=128, height=128),
                node("middle", "SolidMask", True, value=1.0, width=80, height=80),
                node("edge", "MaskComposite", True, x=24, y=24, operation="subtract"),
                node("objective", "SDOObjectiveColour", colour="#1f45db"),
            ),
            (node("trainer", "SDOTrainLoRA", pictures=2, **TRAINING, **SEED),),
            (node("preview", "PreviewImage"), node("save", "SaveLoRA", True)),
        ),
        (
            "all.MASK > edge.destination",
            "middle.MASK > edge.source",
            "edge.MASK > objective.mask",
            "model.MODEL > trainer.model",
            "model.VAE > trainer.vae",
            "objective.objective > trainer.objective",
            "star.CONDITIONING > trainer.positive.positive0",
            "square.CONDITIONING > trainer.positive.positive1",
            "negative.CONDITIONING > trainer.negative",
            "latent.LATENT > trainer.latent",
            "trainer.BEFORE AND AFTER > preview.images",
            "trainer.LORA > save.lora",
        ),
        runs=True,
    ),
    "SDOObjectiveReference": _objective("SDOObjectiveReference", IMAGE),
    "SDOObjectiveSimilarity": _objective("SDOObjectiveSimilarity", VISION, IMAGE),
    "SDOObjectiveText": _objective(
        "SDOObjectiveText", ("CLIPLoader", "CLIP", "clip", "clip"), VISION, text="a lighthouse at night"
    ),
    "SDOObjectiveStyle": _objective("SDOObjectiveStyle", IMAGE, VISION),
    "SDOObjectiveColour": _objective("SDOObjectiveColour", MASK, colour="#0000ff"),
    "SDOObjectiveBrightness": _objective("SDOObjectiveBrightness", MASK, brightness=0.2),
    "SDOObjectiveContrast": _objective("SDOObjectiveContrast"),
    "SDOObjectiveSharpness": _objective("SDOObjectiveSharpness"),
    "SDOObjectiveAesthetic": _objective("SDOObjectiveAesthetic", VISION, file=HEADS[0]),
    "SDOObjectivePreference": _objective(
        "SDOObjectivePreference", VISION, ("LoadImage", "IMAGE", "preferred_over", "image"), file=HEADS[1]
    ),
    "SDOObjectiveCombine": Graph(
        (
            (
                node("colour", "SDOObjectiveColour", colour="#0000ff"),
                node("contrast", "SDOObjectiveContrast"),
            ),
            (node("objective", "SDOObjectiveCombine", weight_2=0.5),),
            (node("optimizer", "SDOLatentOptimizer", True),),
        ),
        (
            "colour.objective > objective.objective_1",
            "contrast.objective > objective.objective_2",
            "objective.objective > optimizer.objective",
        ),
    ),
}
