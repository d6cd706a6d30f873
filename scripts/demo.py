"""One command to see what this pack does: sets everything up, samples a few pictures, leaves a page in output/.

    python scripts/demo.py

Starts ComfyUI on the CPU and submits workflows over HTTP. First what helps most people: fewer model calls on one device
at `fidelity` near. Then the results on the way to KSampler's picture, a window on four devices, and an initial noise
that meets an objective. Prints what was gained, and leaves demo.html with the pictures, and demo.json, in the folder
output/ of this clone. The server is stopped whatever happens.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - this is what tells the user
    sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")

import argparse
import copy
import json
import os
import shutil
import statistics
from pathlib import Path
from typing import Any

if (_SCRIPTS := str(Path(__file__).resolve().parent)) not in sys.path:  # not in front of what the tests have there
    sys.path.insert(0, _SCRIPTS)

from _env import REPO, SetupError, enter_venv, say
from client import ClientError

Json = dict[str, Any]

API = REPO / "workflows" / "api"
WORKFLOW = API / "chords_demo.json"
SEARCH = API / "sdo_blue_background.json"
OUTPUT = REPO / "output"
LOG = OUTPUT / "server.log"  # kept only if something fails
NEW_INPUTS = ("fidelity", "cores", "method", "accept", "devices", "preview_vae")  # of ChordsKSampler beyond KSampler's
STOCK, NEAR, STREAM, WINDOW = "ksampler", "one_gpu_near", "stream", "four_gpus"
LANES = 4
SETTINGS: dict[str, Json] = {
    NEAR: {"fidelity": "near"},
    STREAM: {"fidelity": "exact", "cores": LANES},
    WINDOW: {"fidelity": "near", "cores": LANES},
}
ON_ONE_DEVICE = (STOCK, NEAR)
ITERATIONS = 2  # of the search: the first shows what the seed gives, the second already has another background
SAVE_LATENT, RESULTS = "save_latent", "results"  # nodes that are added


def find_node(workflow: Json, class_type: str) -> str:
    """The id of the one node of a class."""
    found = [node_id for node_id, node in workflow.items() if node["class_type"] == class_type]
    if len(found) != 1:
        raise SetupError(f"the workflow has {len(found)} nodes of class {class_type} instead of one")
    return found[0]


def variants(workflow: Json) -> dict[str, Json]:
    """The workflows to compare, each with a node that saves the sampler's latent.

    All inputs that `SETTINGS` does not name keep their defaults, as after a replacement of KSampler by our node.
    """
    sampler = find_node(workflow, "ChordsKSampler")
    devices = workflow[sampler]["inputs"]["devices"]
    plain = {key: value for key, value in workflow[sampler]["inputs"].items() if key not in NEW_INPUTS}
    result = {}
    for name in (STOCK, *SETTINGS):
        graph = copy.deepcopy(workflow)
        graph[sampler]["class_type"] = "KSampler" if name == STOCK else "ChordsKSampler"
        graph[sampler]["inputs"] = {**copy.deepcopy(plain), **SETTINGS.get(name, {})}
        if name in ON_ONE_DEVICE:
            del graph[devices[0]]
        else:
            graph[sampler]["inputs"]["devices"] = list(devices)
        graph[SAVE_LATENT] = {
            "class_type": "SaveLatent",
            "inputs": {"samples": [sampler, 0], "filename_prefix": name},
        }
        graph[find_node(graph, "SaveImage")]["inputs"]["filename_prefix"] = name
        result[name] = graph
    vae = [find_node(workflow, "ChordsDemoModel"), 1]
    result[STREAM][RESULTS] = {"class_type": "ChordsStreamPreview", "inputs": {"run": [sampler, 1], "vae": vae}}
    return result


def search_graph(workflow: Json) -> Json:
    """The search for an initial noise, short, without the picture of its curve."""
    result = copy.deepcopy(workflow)
    search = find_node(result, "SDOLatentOptimizer")
    result[search]["inputs"]["iterations"] = ITERATIONS
    shows_curve = [
        name
        for name, node in result.items()
        if node["class_type"] == "PreviewImage" and node["inputs"]["images"] == [search, 2]
    ]
    for name in shows_curve:
        del result[name]
    return result


def reseeded(workflow: Json, sampler: str, offset: int) -> Json:
    """The workflow with another seed, so that the server has nothing cached for the sampler."""
    result = copy.deepcopy(workflow)
    result[sampler]["inputs"]["seed"] += offset
    return result


def run_facts(run: Any, sampler: str, graph: Json) -> Json:
    """Calls of a run, in a row and in all: what the node reports, or what Euler does in the stock node."""
    if graph[sampler]["class_type"] == "KSampler":
        steps = graph[sampler]["inputs"]["steps"]
        return {"depth": steps, "evaluations": steps}
    reported = run.outputs.get(sampler, {}).get("chords")
    if not reported:
        raise SetupError(f"node {sampler} (ChordsKSampler) reported nothing under 'chords' in the history")
    return {key: reported[0].get(key) for key in ("depth", "evaluations", "method", "estimate", "message")}


class Demo:
    """The parts of the demo on one server. Each returns what demo.json has of it; pictures go to output/."""

    def __init__(self, client: Any, server: Any) -> None:
        self.client, self.server = client, server
        workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
        self.sampler = find_node(workflow, "ChordsKSampler")
        self.graphs = variants(workflow)
        self.stock: Any = None  # KSampler's latent

    def on_one_device(self, repeats: int) -> dict[str, Json]:
        """KSampler and our node in turn, for their times; the first run of each is its picture."""
        for name in ON_ONE_DEVICE:  # to warm up
            self.client.run(reseeded(self.graphs[name], self.sampler, 1))
        seconds: dict[str, list[float]] = {name: [] for name in ON_ONE_DEVICE}
        found = {}
        for repeat in range(repeats):
            for name in ON_ONE_DEVICE:
                run = self.client.run(reseeded(self.graphs[name], self.sampler, repeat + bool(repeat)))
                seconds[name].append(run.node_seconds(self.sampler))
                if repeat == 0:
                    found[name] = self.told(name, run)
        for name in ON_ONE_DEVICE:
            found[name] |= {"seconds": statistics.median(seconds[name]), "all_seconds": seconds[name]}
        return found

    def streamed(self) -> Json:
        """A run to KSampler's picture on four devices, with the picture of each result on the way."""
        run = self.client.run(self.graphs[STREAM])
        result = self.told(STREAM, run)
        depths = [event["depth"] for event in run.of_kind("chords") if event["kind"] == "hit"]
        images = run.outputs[RESULTS]["images"]
        result["results"] = [
            {"depth": depth, "picture": self.keep(image, f"result_{number}{Path(image['filename']).suffix}")}
            for number, (depth, image) in enumerate(zip(depths, images, strict=True))
        ]
        return result

    def on_four_devices(self) -> Json:
        """A window near KSampler's picture."""
        return self.told(WINDOW, self.client.run(self.graphs[WINDOW]))

    def searched(self) -> Json:
        """The initial noise whose picture has a blue background, and the picture of the same seed without it."""
        graph = search_graph(json.loads(SEARCH.read_text(encoding="utf-8")))
        search = find_node(graph, "SDOLatentOptimizer")
        run = self.client.run(graph)
        shown = {
            node["_meta"]["title"]: run.outputs[name]["images"][0]
            for name, node in graph.items()
            if node["class_type"] == "PreviewImage"
        }
        figures = run.outputs[search]["sdo"][0]
        return {
            "objective": [figures["objective"]["first"][0], figures["objective"]["best"][0]],
            "iterations": ITERATIONS,
            "seconds": figures["seconds"],
            "before": self.keep(shown["Not optimised"], "noise_of_the_seed.png"),
            "after": self.keep(shown["Optimised"], "noise_found.png"),
        }

    def told(self, name: str, run: Any) -> Json:
        """The facts of a run, its picture, and how far its latent is from KSampler's."""
        latent = self.latent(run)
        if name == STOCK:
            self.stock = latent
        (image,) = (image for image in run.images if image["type"] == "output" and image["filename"].endswith(".png"))
        return {
            **run_facts(run, self.sampler, self.graphs[name]),
            "difference": relative_rmse(latent, self.stock),
            "picture": self.keep(image, f"{name}.png"),
        }

    def latent(self, run: Any) -> Any:
        """The latent that the SaveLatent node wrote, as a float array."""
        from safetensors.numpy import load_file

        entry = run.outputs[SAVE_LATENT]["latents"][0]
        file = self.server.output_directory / entry.get("subfolder", "") / entry["filename"]
        return load_file(str(file))["latent_tensor"].astype("float64")

    def keep(self, image: Json, name: str) -> str:
        """Fetch a picture over HTTP into output/; its name."""
        (OUTPUT / name).write_bytes(self.client.view(image))
        return name


def relative_rmse(value: Any, reference: Any) -> float:
    """Root mean square of the difference, relative to that of the reference."""
    return float((((value - reference) ** 2).mean() / (reference**2).mean()) ** 0.5)


def demo(options: argparse.Namespace) -> None:
    """Prepare, start the server, sample, write the page."""
    from _server import ComfyServer
    from host import prepare

    host = prepare(for_tests=False)
    OUTPUT.mkdir(exist_ok=True)
    LOG.unlink(missing_ok=True)
    say("starting ComfyUI on the CPU")
    with ComfyServer(host, cpu=True, threads=1) as server:
        try:
            parts = Demo(server.client(), server)
            say("1 of 4: one GPU, fewer model calls")
            found: Json = parts.on_one_device(options.repeats)
            say("2 of 4: results on the way")
            found[STREAM] = parts.streamed()
            say("3 of 4: four GPUs")
            found[WINDOW] = parts.on_four_devices()
            say("4 of 4: an initial noise that meets an objective")
            found["search"] = parts.searched()
        except Exception:
            shutil.copyfile(server.log_path, LOG)
            raise
    finish(found | {"repeats": options.repeats, "processors": os.cpu_count()})


def finish(found: Json) -> None:
    """Print what was gained, and write the page and the figures beside the pictures."""
    from _demo_page import magnified, page, summary

    magnified(OUTPUT / found[STOCK]["picture"], OUTPUT / found[NEAR]["picture"], OUTPUT / "difference.png")
    (OUTPUT / "demo.html").write_text(page(found), encoding="utf-8")
    (OUTPUT / "demo.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"\n{summary(found)}\n\nThe pictures, to open in a browser: {OUTPUT / 'demo.html'}")


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--repeats", type=int, default=3, help="timed runs on one device (default 3)")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    try:
        enter_venv()
        from _server import ServerError

        try:
            demo(options)
        except (ServerError, ClientError) as error:
            raise SetupError(f"{error}\nThe server's log, if it started: {LOG}") from error
    except SetupError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped")
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
