"""Reads or writes the file of timings as the pack does, in a process of its own with the host's modules.

Arguments: the ComfyUI folder, the user folder, and what to do: "read", which recalls from each text of the JSON list on
stdin and plans with it; or "keep" with a name and a number, which keeps so many measurements of models of that name.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent.parent


def modules(host: str, user: str) -> tuple[Any, Any]:
    """The pack's module of measurements and the core's planner, without the pack's entry, which needs a server."""
    sys.argv = ["main.py", "--cpu"]
    sys.path.insert(0, host)
    os.chdir(host)
    importlib.import_module("comfy.options").enable_args_parsing()
    importlib.import_module("folder_paths").set_user_directory(user)
    for name, folder in {"pack": REPO, "pack.nodes": REPO / "nodes"}.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(folder)]
    return importlib.import_module("pack.nodes.host.devices.timings_file"), importlib.import_module(
        "pack.chords_core.planning"
    )


def read(timings: Any, planner: Any, texts: list[str]) -> list[float | None]:
    """What each text has for a step, as the file's content; with some, plans are made."""
    key = timings.TimingsKey("model", "float32", (1, 4), ("cpu",), True)
    path = timings.timings_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = []
    for text in texts:
        path.write_bytes(text.encode("latin-1"))
        found = timings.recall_timings(key)
        for lanes in (1, 4) if found is not None else ():
            planner.plan(20, lanes, costs=found.costs())
        steps.append(None if found is None else found.step)
    return steps


def main() -> None:
    host, user, what, *rest = sys.argv[1:]
    timings, planner = modules(host, user)
    if what == "read":
        print(json.dumps(read(timings, planner, json.load(sys.stdin))))
        return
    name, count = rest[0], int(rest[1])
    timings._LOCK_SECONDS = 600.0  # the others keep theirs meanwhile, on a disk that may be slow
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(count):
        key = timings.TimingsKey(f"{name} {number}", "float32", (1, 4), ("cpu",), True)
        timings.keep_timings(key, timings.Timings(float(number) if name == "no times" else 1.0))
    print(json.dumps([timings.timings_path().exists(), timings.recall_timings(key) is not None]))


if __name__ == "__main__":
    main()
