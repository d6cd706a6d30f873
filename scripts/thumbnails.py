"""Draws the pictures that ComfyUI's template browser shows for the workflows of the pack.

    python scripts/thumbnails.py                       # all: the demo workflows run first, some minutes on a CPU
    python scripts/thumbnails.py sdxl chords_demo      # only these, by their names in workflows/api/
    python scripts/thumbnails.py --drawn               # only those with a symbol, which need no run

Each has a title, one line on what the workflow does, and what it makes. For the demo model these are its pictures. The
other workflows need files that this repository does not have: a symbol shows what comes out, such as a video.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - this is what tells the user
    sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

if (_SCRIPTS := str(Path(__file__).resolve().parent)) not in sys.path:
    sys.path.insert(0, _SCRIPTS)

from _env import SetupError, enter_venv, say
from _templates import BY_API, TEMPLATES, Template

if TYPE_CHECKING:
    from client import ComfyClient, Run
    from PIL import Image

RUN_LIMIT = 1800.0  # seconds for one workflow


# ------------------------------------------------------------------------------------------------ pictures of runs


class Pictures:
    """The pictures of one run, by the titles of its nodes."""

    def __init__(self, client: ComfyClient, workflow: dict[str, Any], run: Run) -> None:
        self._client, self._workflow, self._run = client, workflow, run

    def of(self, title: str) -> list[Image.Image]:
        """Those of the node with this title that shows pictures."""
        from PIL import Image

        (node,) = [
            node
            for node, entry in self._workflow.items()
            if entry["_meta"]["title"] == title and self._run.outputs.get(node, {}).get("images")
        ]
        found = self._run.outputs[node]["images"]
        return [Image.open(io.BytesIO(self._client.view(image))).convert("RGB") for image in found]


def _change(before: str, after: str) -> Any:
    return lambda pictures: (pictures.of(before)[:1], "to", pictures.of(after)[:1])


def _result(pictures: Pictures) -> Any:
    return pictures.of("Save Image"), "", []


def _results(pictures: Pictures) -> Any:
    """The first three results of a run, and the last."""
    hits = pictures.of("CHORDS Stream Preview")
    return [*hits[:3], hits[-1]], "", []


# What is shown: pictures, the sign between them and the next ones.
SHOWN = {
    "chords_demo": _result,
    "chords_streaming": _results,
    "chords_few_steps": lambda pictures: (pictures.of("KSampler")[:1], "equal", pictures.of("KSampler (CHORDS)")[:1]),
    "chords_img2img": _change("The picture to start from", "Save Image"),
    "chords_inpaint": _change("The picture to start from", "Save Image"),
    "sdo_blue_background": _change("Not optimised", "Optimised"),
    "sdo_look_like": _change("The picture to look like", "Optimised"),
    "sdo_to_chords": _result,
    "sdo_lora_blue_background": lambda pictures: (
        pictures.of("Without it")[::3],
        "to",
        pictures.of("With the LoRA")[::3],
    ),
    "sdo_lora_to_chords": _result,
}


def _run_and_draw(templates: list[Template]) -> None:
    import json

    from _server import ComfyServer
    from _thumbnail_drawing import arranged, card
    from host import prepare

    with ComfyServer(prepare(), cpu=True) as server:
        client = server.client()
        for template in templates:
            workflow = json.loads(template.api_path.read_text(encoding="utf-8"))
            run = client.run(workflow, time_limit=RUN_LIMIT)
            shown = SHOWN[template.api](Pictures(client, workflow, run))
            _save(template, card(template, arranged(*shown)))


def _draw(templates: list[Template]) -> None:
    from _thumbnail_drawing import card, symbol

    for template in templates:
        _save(template, card(template, symbol(template.shows, TEMPLATES.index(template))))


def _save(template: Template, image: Image.Image) -> None:
    image.save(template.thumbnail, quality=90, optimize=True)
    say(f"{template.thumbnail.name}")


def main() -> int:
    """Run the command, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="workflows in workflows/api/; none means all")
    parser.add_argument("--drawn", action="store_true", help="only those with a symbol, which need no run")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(BY_API)):
        parser.error(f"there is no template {unknown[0]!r}; there are {', '.join(BY_API)}")
    chosen = [BY_API[name] for name in options.names] or list(TEMPLATES)
    try:
        enter_venv()
        _draw([template for template in chosen if template.shows])
        to_run = [template for template in chosen if not template.shows]
        if to_run and not options.drawn:
            _run_and_draw(to_run)
    except (SetupError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
