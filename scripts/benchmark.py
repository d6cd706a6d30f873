"""Is CHORDS worth it for you? Measures KSampler and settings of CHORDS on a workflow of yours.

    python scripts/benchmark.py                                       the demo's picture, on a ComfyUI of its own
    python scripts/benchmark.py workflow_api.json --server http://127.0.0.1:8188 --repeats 3

Takes the workflow's KSampler (or KSampler (CHORDS)) and puts a CHORDS Benchmark with the same inputs in its place.
Without --server it starts a ComfyUI: the checkout that COMFYUI_PATH names, with its models, or else one of its own.
Prints a table and a recommendation; leaves benchmark.png and benchmark.json in the folder output/ of this clone.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - this is what tells the user
    sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")

import argparse
import contextlib
import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path

if (_SCRIPTS := str(Path(__file__).resolve().parent)) not in sys.path:  # not in front of what the tests have there
    sys.path.insert(0, _SCRIPTS)

from _env import REPO, SetupError, enter_venv, say
from client import ClientError, ComfyClient, UsageError, load_workflow, override

WORKFLOW = REPO / "workflows" / "api" / "chords_demo.json"
OUTPUT = REPO / "output"
BENCHMARK = "ChordsBenchmark"
SAMPLERS = ("KSampler", "ChordsKSampler")
DROPPED = ("fidelity", "cores", "method", "accept", "preview_vae")  # of ChordsKSampler: what is to be tried


def benchmark_graph(workflow: dict, node_id: str | None = None) -> tuple[dict, str]:
    """The workflow with a benchmark in place of its sampler, and nothing that does not lead there; the node's id."""
    node_id = node_id or only_sampler(workflow)
    if node_id not in workflow:
        raise UsageError(f"the workflow has no node {node_id!r}")
    graph = copy.deepcopy(workflow)
    node = graph[node_id]
    if node["class_type"] in SAMPLERS:
        kept = {key: value for key, value in node["inputs"].items() if key not in DROPPED}
        node |= {"class_type": BENCHMARK, "inputs": {**kept, "vae": vae_after(workflow, node_id)}}
        node["_meta"] = {"title": "CHORDS Benchmark"}
    elif node["class_type"] != BENCHMARK:
        raise UsageError(f"node {node_id} is a {node['class_type']}, not one of {', '.join(SAMPLERS)}")
    return {name: graph[name] for name in sorted(leading_to(graph, node_id))}, node_id


def only_sampler(workflow: dict) -> str:
    """The id of the node to measure: a benchmark that is there already, else the one sampler."""
    for classes in ((BENCHMARK,), SAMPLERS):
        found = [node_id for node_id, node in workflow.items() if node["class_type"] in classes]
        if len(found) > 1:
            raise UsageError(f"the workflow has {len(found)} nodes to measure: name one by --node ({', '.join(found)})")
        if found:
            return found[0]
    raise UsageError(f"the workflow has none of the nodes {', '.join(SAMPLERS)}; other samplers cannot be measured")


def vae_after(workflow: dict, sampler: str) -> list:
    """The link to the VAE that decodes what the sampler makes, however many nodes later."""
    reached, ways = {sampler}, [sampler]
    while ways:
        above = ways.pop(0)
        for node_id, node in workflow.items():
            if node_id in reached or above not in sources(node):
                continue
            vae = node["inputs"].get("vae")
            if isinstance(vae, list):
                return vae
            reached.add(node_id)
            ways.append(node_id)
    raise UsageError(f"no VAE Decode takes what node {sampler} makes, so there is no VAE to compare pictures with")


def sources(node: dict) -> list[str]:
    """The ids of the nodes that a node takes its inputs from."""
    return [str(value[0]) for value in node["inputs"].values() if isinstance(value, list) and len(value) == 2]


def leading_to(graph: dict, node_id: str) -> set[str]:
    """The node, and all that it needs."""
    found, ways = set(), [node_id]
    while ways:
        name = ways.pop()
        if name in graph and name not in found:
            found.add(name)
            ways += sources(graph[name])
    return found


def table(figures: dict) -> str:
    """The comparison as a Markdown table; the recommended row has an arrow."""
    head = ("", "seconds", "speed", "first picture, s", "difference", "PSNR, dB")
    body = []
    for place, row in enumerate(figures["rows"]):
        accepted = row["accepted"]
        body.append(
            (
                ("-> " if place == figures["recommended"]["row"] else "") + row["name"],
                f"{row['seconds']:.2f}",
                f"{row['speedup']:.2f}x",
                f"{row['first']['seconds']:.2f}",
                percent(accepted["rmse"]) if place else "",
                ("equal" if accepted["psnr"] is None else f"{accepted['psnr']:.1f}") if place else "",
            )
        )
    widths = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]
    lines = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (head, *body)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(value: float | None) -> str:
    """A share as text; what is not zero never reads as zero."""
    if value is None:
        return "not finite"
    return "equal" if value == 0 else f"{value:.2%}" if value >= 0.0001 else "under 0.01%"


class Tenths:
    """Says each tenth of the way, and remembers the prompt."""

    def __init__(self) -> None:
        self.prompt_id: str | None = None
        self._told = 0

    def __call__(self, kind: str, data: dict) -> None:
        self.prompt_id = data.get("prompt_id") or self.prompt_id
        if kind == "progress":
            tenths = int(10 * data.get("value", 0) / max(1, data.get("max", 1)))
            if tenths > self._told:
                self._told = tenths
                say(f"{10 * tenths} % done")


def measure(client: ComfyClient, graph: dict, node_id: str, timeout: float) -> tuple[dict, bytes]:
    """Run the benchmark; its figures and its picture. Ctrl-C takes it off the server."""
    progress = Tenths()
    try:
        run = client.run(graph, on_event=progress, time_limit=timeout)
    except (KeyboardInterrupt, TimeoutError):
        if progress.prompt_id:
            client.cancel(progress.prompt_id)
        raise
    output = run.outputs[node_id]
    return output["benchmark"][0], client.view(output["images"][0])


@contextlib.contextmanager
def server_for(options: argparse.Namespace) -> Iterator[ComfyClient]:
    """The server named, or one of our own, which is stopped at the end."""
    if options.server:
        yield ComfyClient(options.server)
        return
    from _server import ComfyServer, ServerError
    from host import prepare

    host = prepare()
    folders = []
    for name in ("user", "input"):  # the host's own: what was measured is kept in the one, pictures are in the other
        (host / name).mkdir(exist_ok=True)
        folders += [f"--{name}-directory", str(host / name)]
    say("starting ComfyUI")
    try:
        with ComfyServer(host, threads=None, arguments=folders) as server:  # threads as in any ComfyUI
            say(f"ComfyUI answers at {server.url}")
            yield server.client()
    except ServerError as error:
        raise SetupError(str(error)) from error


def benchmark(options: argparse.Namespace) -> None:
    """Build the graph, run it, keep and print what came of it."""
    graph, node_id = benchmark_graph(load_workflow(options.workflow), options.node)
    inputs = graph[node_id]["inputs"]
    inputs |= {key: value for key in ("cores", "repeats") if (value := getattr(options, key)) is not None}
    with server_for(options) as client:
        override(graph, options.set, lambda _class: None)
        figures, picture = measure(client, graph, node_id, options.timeout)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "benchmark.png").write_bytes(picture)
    (options.output / "benchmark.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"\n{table(figures)}\n\n{figures['advice']}\n(Recommended is {figures['rule']}.)\n")
    print(f"Picture and figures: {options.output / 'benchmark.png'}, {options.output / 'benchmark.json'}")


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workflow", nargs="?", type=Path, default=WORKFLOW, help="in API format (default: the demo)")
    parser.add_argument("--server", help="address of a running ComfyUI with this pack (default: start one)")
    parser.add_argument("--node", help="id of the sampler to measure, where the workflow has several")
    parser.add_argument("--cores", help='numbers of cores to try, such as "2, 4, 8" (default: what could gain)')
    parser.add_argument("--repeats", type=int, help="timed runs of each setting (default 3)")
    parser.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help="set an input")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for picture and JSON (default: output)")
    parser.add_argument("--timeout", type=float, default=math.inf, help="seconds after which to give up")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(arguments)
    try:
        if not options.server:
            enter_venv()
        benchmark(options)
    except (SetupError, ClientError) as error:
        say(f"error: {error}")
        return getattr(error, "exit_code", 1)
    except KeyboardInterrupt:
        say("stopped")
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
