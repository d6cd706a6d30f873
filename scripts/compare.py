"""Compares KSampler, KSampler (CHORDS) and peers on a workflow of yours, on a running ComfyUI.

    python scripts/compare.py workflow.json
    python scripts/compare.py workflow.json --server 127.0.0.1:8188 --seeds 5 --output comparison
    python scripts/compare.py workflow.json --variants near EasyCache
    python scripts/compare.py workflow.json --peer "TeaCache:model_type=flux,rel_l1_thresh=0.25"

The workflow may be saved by the page or exported for the API. It runs as it is with KSampler, with KSampler (CHORDS)
at each fidelity, and with what the server's ComfyUI has itself for speed: EasyCache, LazyCache, and the node for
several GPUs. Each runs once to warm up; then all take turns, seed by seed.

It writes comparison.html, a page with the pictures side by side, the figures and a recommendation, and comparison.json.
Nothing is saved on the server. Ctrl-C ends it, and what was measured until then is written.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - this is what tells the user
    sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")

import argparse
import io
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

if (_SCRIPTS := str(Path(__file__).resolve().parent)) not in sys.path:  # not in front of what the tests have there
    sys.path.insert(0, _SCRIPTS)

from client import not_negative, override, server_address
from comfy_client import DEFAULT_SERVER, PACKAGES, ClientError, ComfyClient, Json, UsageError
from comparison.output import check_folder, write
from comparison.page import page
from comparison.report import as_json, conditions_of, table
from comparison.saved_to_api import EXPORT, to_api
from comparison.session import Result, Session
from comparison.variants import Variants, chosen, parse_peer, seed_places, variants_of
from workflow_swap.validation import error_for, is_api, is_saved

PAGE, FIGURES = "comparison.html", "comparison.json"
EXIT_CODES = """\
exit codes:
  0    done
  1    a node failed on the server
  2    wrong use of this command, a missing package, or a workflow that cannot be compared
  3    the server cannot be reached, or was lost
  5    somebody else interrupted a run
  130  Ctrl-C; what was measured until then is written
"""


def read_workflow(path: Path) -> Json:
    """A workflow file in either format.

    Raises:
        UsageError: it is not one. The message says what is wrong.
    """
    try:
        workflow = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not is_api(workflow) and not is_saved(workflow):
        raise UsageError(f"{path}: {error_for(workflow)}")
    return workflow


def prompt_of(workflow: Json, classes: Json) -> tuple[Json, dict[str, str]]:
    """A workflow in API format, and why some of its nodes are not as in the file.

    Raises:
        UsageError: parts of nodes or links are missing, or of another kind.
    """
    if is_api(workflow):
        return workflow, {}
    try:
        converted = to_api(workflow, classes)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"its nodes or links are damaged ({type(error).__name__}: {error}). If the page opens it, {EXPORT}"
        ) from error
    return converted.prompt, converted.faults


def prepare(options: argparse.Namespace, client: ComfyClient) -> tuple[Variants, Json, int]:
    """The variants, the server's /system_stats, and by how much to move the seeds, before anything runs.

    Raises:
        UsageError: something that the user gave is not valid.
    """
    workflow = read_workflow(options.workflow)
    check_folder(options.output)
    classes, stats = client.object_info(), client.get_json("/system_stats")
    try:
        prompt, faults = prompt_of(workflow, classes)
    except UsageError as error:
        raise UsageError(f"{options.workflow}: {error}") from error
    override(prompt, options.set, lambda name: _input_names(classes.get(name)))
    peers = [parse_peer(text, classes) for text in options.peer]
    gpus = sum(device.get("type") != "cpu" for device in stats.get("devices", []))
    try:
        variants = chosen(variants_of(prompt, classes, gpus, peers), options.variants)
    except UsageError as error:  # a node that only the page has may be the reason
        raise UsageError("\n".join([f"{options.workflow}: {error}", *list(faults.values())[:1]])) from error
    stock = variants.all[0].prompt
    unknown = [
        f"node {name} ({node['class_type']})" for name, node in stock.items() if node["class_type"] not in classes
    ]
    for name in stock:
        if name in faults:
            raise UsageError(f"{options.workflow}: {faults[name]}")
    if unknown:
        raise UsageError(f"{options.workflow}: the server does not have {', '.join(unknown)}: install the packs there")
    node, key = min(seed_places(stock))
    own = stock[node]["inputs"][key]
    return variants, stats, 0 if options.first_seed is None else options.first_seed - own


def _input_names(known: Json | None) -> set[str] | None:
    if known is None:
        return None
    return {name for group in ("required", "optional") for name in known["input"].get(group, ())}


def save(result: Result, folder: Path) -> None:
    """Write the page and the figures.

    Raises:
        UsageError: they cannot be written.
    """
    try:
        write(folder / PAGE, page(result).encode())
        write(folder / FIGURES, (json.dumps(as_json(result), indent=1, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise UsageError(f"cannot write into {folder}: {error.strerror or error}") from error


def compare(options: argparse.Namespace) -> int:
    """Do all of it. Returns the exit code."""
    client = ComfyClient(options.server)
    require_packages()
    variants, stats, offset = prepare(options, client)
    stock = variants.all[0]
    conditions = conditions_of(stats, stock, options.server, options.workflow.name, version())
    conditions |= {"command": options.command, "first_seed": _first_seed(stock.at(offset))}
    session = Session(client, variants, options.seeds, options.timeout, say, conditions, offset)
    counted = "1 seed" if options.seeds == 1 else f"{options.seeds} seeds"
    say(f"{len(variants.all)} variants, {counted}: {len(variants.all) * (options.seeds + 1)} runs with the warm-up")
    for note in variants.notes:
        say(note)
    code, trouble = 0, None
    try:
        session.warm_up()
        session.rounds(lambda result: save(result, options.output))
    except KeyboardInterrupt:
        code = 130
        say("stopped")
    except ClientError as error:
        code, trouble = error.exit_code, error
    if trouble is not None:
        say(f"error: {trouble}")
    try:
        result = session.result()
    except UsageError as error:
        say(str(error))
        return code or error.exit_code
    save(result, options.output)
    print(f"\n{table(result)}\n\n{result.advice.sentence}")
    print("\n".join(result.advice.cautions), end="\n" * bool(result.advice.cautions))
    print(f"Page: {options.output / PAGE}\nFigures: {options.output / FIGURES}")
    return code


def _first_seed(prompt: Json) -> Any:
    node, key = min(seed_places(prompt))
    return prompt[node]["inputs"][key]


def require_packages() -> None:
    """Raises UsageError if the packages for pictures are missing."""
    try:
        import numpy  # noqa: F401
        import PIL  # noqa: F401
    except ImportError as error:
        raise UsageError(f"the comparison needs packages: pip install {PACKAGES} numpy pillow ({error})") from error


def version() -> str:
    """The version of this clone."""
    text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "([^"]+)"', text, re.M)
    return found[1] if found else "of an unknown version"


def say(message: str) -> None:
    """Print a line of progress."""
    print(message, file=sys.stderr, flush=True)


def positive(text: str) -> int:
    """A type for argparse: a whole number of 1 or more."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXIT_CODES, formatter_class=raw)
    add = parser.add_argument
    add("workflow", type=Path, help="the workflow, as the page saves or exports it")
    add("--server", type=server_address, default=DEFAULT_SERVER, metavar="ADDRESS", help=f"default {DEFAULT_SERVER}")
    add(
        "--seeds",
        type=positive,
        default=3,
        metavar="N",
        help="timed runs of each variant, each with a seed (default 3)",
    )
    add("--first-seed", type=not_negative(int), metavar="SEED", help="the first seed (default: the file's)")
    words = "only variants whose name has one of these words in it, and KSampler"
    add("--variants", nargs="+", default=[], metavar="WORD", help=words)
    words = "also try this node of the server, which takes a MODEL and gives one; may be repeated"
    add("--peer", action="append", default=[], metavar="NODE:INPUT=VALUE,...", help=words)
    words = "set an input of the node of this id or title; VALUE is JSON, or else a text; may be repeated"
    add("--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help=words)
    add("--output", type=Path, default=Path("comparison"), metavar="FOLDER", help="where to write (default comparison)")
    words = "a variant of which one run takes longer is left out (default: no limit)"
    add("--timeout", type=not_negative(float), default=math.inf, metavar="SECONDS", help=words)
    options = parser.parse_args(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    options.command = shlex.join(["python", "scripts/compare.py", *given])
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command with these arguments. Returns the exit code."""
    options = parse_options(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # names may hold letters that the terminal's encoding lacks
    try:
        return compare(options)
    except KeyboardInterrupt:
        say("stopped")
        return 130
    except ClientError as error:
        say(f"error: {error}")
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
