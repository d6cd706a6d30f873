"""One command to see CHORDS: sets everything up, samples the same picture four ways, leaves it in output/.

    python scripts/demo.py

Starts ComfyUI on the CPU and submits workflows/api/chords_demo.json over HTTP four times: with the stock KSampler; on
four cores; on four cores to the exact result; and on one core with `fidelity` at `near`, which calls the model at some
of the steps only. Prints a table, and leaves the pictures, demo.md and demo.json in the folder output/ of this clone.
The server is stopped whatever happens.
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

if (_SCRIPTS := str(Path(__file__).resolve().parent)) not in sys.path:  # not in front of what the tests have there
    sys.path.insert(0, _SCRIPTS)

from _env import REPO, SetupError, enter_venv, say
from client import ClientError, Progress

WORKFLOW = REPO / "workflows" / "api" / "chords_demo.json"
OUTPUT = REPO / "output"
LOG = OUTPUT / "server.log"  # kept only if something fails
NEW_INPUTS = ("fidelity", "cores", "method", "accept", "devices", "preview_vae")  # of ChordsKSampler beyond KSampler's
STOCK, WINDOW, EXACT, NEAR = "stock", "four_cores", "exact", "near"
NAMES = {STOCK: "KSampler (stock)", WINDOW: "4 cores", EXACT: "4 cores, exact", NEAR: "1 core, near"}
SETTINGS = {
    WINDOW: {"cores": 4},
    EXACT: {"cores": 4, "fidelity": "exact"},
    NEAR: {"cores": 1, "fidelity": "near"},
}
SAVE_LATENT = "save_latent"


def find_node(workflow: dict, class_type: str) -> str:
    """The id of the one node of a class."""
    found = [node_id for node_id, node in workflow.items() if node["class_type"] == class_type]
    if len(found) != 1:
        raise SetupError(f"{WORKFLOW.name} has {len(found)} nodes of class {class_type} instead of one")
    return found[0]


def variants(workflow: dict) -> dict[str, dict]:
    """The workflows to compare, each with a node that saves the sampler's latent."""
    sampler = find_node(workflow, "ChordsKSampler")
    result = {name: copy.deepcopy(workflow) for name in NAMES}
    for name, graph in result.items():
        save = {"samples": [sampler, 0], "filename_prefix": name}
        graph[SAVE_LATENT] = {"class_type": "SaveLatent", "inputs": save}
        graph[find_node(graph, "SaveImage")]["inputs"]["filename_prefix"] = name
    for name, inputs in SETTINGS.items():
        result[name][sampler]["inputs"] |= inputs
    stock = result[STOCK][sampler]
    stock["class_type"] = "KSampler"
    stock["inputs"] = {key: value for key, value in stock["inputs"].items() if key not in NEW_INPUTS}
    return result


def reseeded(workflow: dict, sampler: str, offset: int) -> dict:
    """The workflow with another seed, so that the server has nothing cached for the sampler."""
    result = copy.deepcopy(workflow)
    result[sampler]["inputs"]["seed"] += offset
    return result


def sample_variant(client, server, name: str, graph: dict, repeats: int) -> dict:
    """Warm up, run the variant for its picture, then again for its time; what goes into the table."""
    sampler = find_node(graph, graph_sampler(graph))
    client.run(reseeded(graph, sampler, 1))
    seconds, first = [], None
    for offset in (0, *range(2, repeats + 1)):
        progress = Progress(lambda _node: NAMES[name]) if offset == 0 else None
        run = client.run(reseeded(graph, sampler, offset), on_event=progress)
        if progress is not None:
            progress.clear()
            first = run
        seconds.append(run.node_seconds(sampler))
    say(f"{NAMES[name]}: {statistics.median(seconds):.2f} s")
    return {
        "variant": NAMES[name],
        **run_facts(first, sampler, graph),
        "seconds": statistics.median(seconds),
        "all_seconds": seconds,
        "latent": saved_latent(server, first),
        "picture": keep_picture(client, first, name),
    }


def graph_sampler(graph: dict) -> str:
    """Which of the two sampler classes a variant uses."""
    classes = {node["class_type"] for node in graph.values()}
    return "KSampler" if "KSampler" in classes else "ChordsKSampler"


def run_facts(run, sampler: str, graph: dict) -> dict:
    """Depth, model calls and cores of a run: what the node reports, or what Euler does in the stock node."""
    if graph[sampler]["class_type"] == "KSampler":
        steps = graph[sampler]["inputs"]["steps"]
        return {"depth": steps, "evaluations": steps, "cores": 1}
    reported = run.outputs.get(sampler, {}).get("chords")
    if not reported:
        raise SetupError(f"node {sampler} (ChordsKSampler) reported nothing under 'chords' in the history")
    facts = reported[0]
    return {key: facts.get(key) for key in ("depth", "evaluations", "cores", "method", "estimate", "message")}


def saved_latent(server, run):
    """The latent that the SaveLatent node wrote, as a float array."""
    from safetensors.numpy import load_file

    entry = run.outputs[SAVE_LATENT]["latents"][0]
    file = server.output_directory / entry.get("subfolder", "") / entry["filename"]
    return load_file(str(file))["latent_tensor"].astype("float64")


def keep_picture(client, run, name: str) -> str:
    """Fetch the picture over HTTP into output/; its name."""
    if not run.images:
        raise SetupError(f"the workflow of {NAMES[name]} left no picture")
    file = OUTPUT / f"{name}.png"
    file.write_bytes(client.view(run.images[0]))
    return file.name


def relative_rmse(value, reference) -> float:
    """Root mean square of the difference, relative to that of the reference."""
    return float((((value - reference) ** 2).mean() / (reference**2).mean()) ** 0.5)


def percent(value: float) -> str:
    """A share as text; what is not zero never reads as zero."""
    if value == 0:
        return "0 (equal bits)"
    return f"{value:.2%}" if value >= 0.0001 else "under 0.01%"


def table(rows: list[dict]) -> str:
    """The comparison as a Markdown table."""
    head = ("", "depth (sequential model calls)", "model calls", "cores", "seconds", "difference from stock")
    body = [
        (
            row["variant"],
            str(row["depth"]),
            str(row["evaluations"]),
            str(row["cores"]),
            f"{row['seconds']:.2f}",
            percent(row["difference"]),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]
    lines = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (head, *body)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def notes(rows: list[dict], graph: dict, repeats: int) -> str:
    """What one has to know to read the table."""
    inputs = graph[find_node(graph, "ChordsKSampler")]["inputs"]
    lanes = graph[find_node(graph, "ChordsDevices")]["inputs"]["cpu_lanes"]
    text = (
        f"{inputs['steps']} {inputs['sampler_name']} steps, CFG {inputs['cfg']}, seed {inputs['seed']}. "
        "Difference: root mean square of the latents' difference, relative to the stock latent. "
        f"Seconds: the sampler node alone, median of {repeats} after a warm-up, with one thread a lane and "
        f"{lanes} lanes on {os.cpu_count()} processor core(s)"
    )
    fewer = rows[0]["depth"] / rows[1]["depth"]
    return (
        f"{text}. With a processor core (or a GPU) for every lane, {rows[1]['variant']} take {rows[1]['depth']} "
        f"instead of {rows[0]['depth']} model calls in a row, {fewer:.2f} times fewer. How many they take depends on "
        "the picture."
    )


def demo(options: argparse.Namespace) -> None:
    """Prepare, start the server, sample the variants, write the results."""
    from _server import ComfyServer
    from host import prepare

    host = prepare()
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    OUTPUT.mkdir(exist_ok=True)
    LOG.unlink(missing_ok=True)
    say("starting ComfyUI on the CPU")
    with ComfyServer(host, cpu=True, threads=1) as server:
        say(f"ComfyUI answers at {server.url}")
        try:
            client = server.client()
            rows = [
                sample_variant(client, server, name, graph, options.repeats)
                for name, graph in variants(workflow).items()
            ]
        except Exception:
            shutil.copyfile(server.log_path, LOG)
            raise
    finish(rows, workflow, options.repeats)


def finish(rows: list[dict], workflow: dict, repeats: int) -> None:
    """Compute the differences, print the table, and write it beside the pictures."""
    latents = [row.pop("latent") for row in rows]
    for row, latent in zip(rows, latents, strict=True):
        row["difference"] = relative_rmse(latent, latents[0])
    text = f"{table(rows)}\n\n{notes(rows, workflow, repeats)}\n"
    pictures = "\n".join(f"![{row['variant']}]({row['picture']})" for row in rows)
    (OUTPUT / "demo.md").write_text(f"# CHORDS demo\n\n{text}\n{pictures}\n", encoding="utf-8")
    (OUTPUT / "demo.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"\n{text}")
    print(f"Pictures in {OUTPUT}: {', '.join(row['picture'] for row in rows)}")


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each variant (default 3)")
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
