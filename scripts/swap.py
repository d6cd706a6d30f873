"""Replaces the stock samplers of a workflow by the CHORDS samplers; nothing else in it changes.

    python swap.py workflow.json with_chords.json     one file, as saved by the browser or for the API
    python swap.py workflows with_chords              all workflows of a folder and of its subfolders
    python swap.py with_chords.json stock.json --back

KSampler becomes KSampler (CHORDS), KSampler Advanced becomes KSampler Advanced (CHORDS), and a KSamplerSelect that
feeds SamplerCustom or SamplerCustomAdvanced becomes CHORDS Sampler, also in subgraphs. Other samplers stay, and the
command names them.

A file is written completely or not at all. A file that cannot be read or written is named; the other files of its
folder are swapped all the same, and the exit status is 1.

To use the command elsewhere, copy this file and the folder `workflow_swap`. They need Python 3.10 and nothing else.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - this is what tells the user
    sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")

import argparse
import os
import re
from pathlib import Path
from typing import TextIO

if (_SCRIPTS := str(Path(__file__).resolve().parent)) not in sys.path:  # not in front of what the tests have there
    sys.path.insert(0, _SCRIPTS)

from workflow_swap.files import Change, back, swap, swap_file, swap_text
from workflow_swap.node_pairs import BY_OURS, BY_STOCK, KINDS, RUN, SOCKETS, WIDGETS, Kind, Swapped, summary
from workflow_swap.validation import BadWorkflow, NotAWorkflow, is_api, is_saved

__all__ = [
    "BY_OURS",
    "BY_STOCK",
    "KINDS",
    "RUN",
    "SOCKETS",
    "WIDGETS",
    "BadWorkflow",
    "Kind",
    "NotAWorkflow",
    "Swapped",
    "back",
    "is_api",
    "is_saved",
    "main",
    "summary",
    "swap",
    "swap_file",
    "swap_text",
]


def _swap_folder(source: Path, target: Path, change: Change) -> int:
    """Swap in all workflows of a folder, and return the exit status.

    A file that is not a workflow is named and not written. A file that cannot be read or written is named too, and the
    exit status is 1.
    """
    written = failed = 0
    for path in _files(source, target):
        name = path.relative_to(source)
        try:
            if not path.is_file():
                raise OSError("not a file, or a link to a missing file")
            result = swap_file(path, target / name, change)
        except BadWorkflow as error:
            failed += 1
            _say(f"{name}: error: {error}", sys.stderr)
        except NotAWorkflow as error:
            _say(f"{name}: skipped: {error}", sys.stderr)
        except OSError as error:
            failed += 1
            _say(f"{name}: error: {error}", sys.stderr)
        else:
            written += 1
            _say(f"{name}: {summary(result)}")
    _say(f"{written} workflows written to {target}" + (f"; {failed} files could not be swapped" if failed else ""))
    return 0 if written and not failed else 1


def _files(source: Path, target: Path) -> list[Path]:
    """The files to swap in. Files that an earlier run wrote into a subfolder of the source are left out."""
    outer, inner = os.path.realpath(source), Path(os.path.realpath(target))
    is_inside = inner.is_relative_to(outer) and inner != Path(outer)
    found = sorted(path for path in source.rglob("*.json") if path.is_symlink() or not path.is_dir())
    return [path for path in found if not (is_inside and Path(os.path.realpath(path.parent)).is_relative_to(inner))]


def _say(message: str, stream: TextIO | None = None) -> None:
    """Print one line. Control characters in names are escaped."""
    unprintable = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")
    line = unprintable.sub(lambda found: found[0].encode("unicode_escape").decode(), message)
    stream = stream or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream)


def main(arguments: list[str] | None = None) -> int:
    """Run the command with these arguments, and return the exit status."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("source", type=Path, help="a workflow file, or a folder of them")
    parser.add_argument("target", type=Path, help="the file or folder to write; may be the same")
    parser.add_argument("--back", action="store_true", help="replace our samplers by the stock ones")
    options = parser.parse_args(arguments)
    change = back if options.back else swap
    try:
        if options.source.is_dir():
            return _swap_folder(options.source, options.target, change)
        target = options.target / options.source.name if options.target.is_dir() else options.target
        _say(f"{target}: {summary(swap_file(options.source, target, change))}")
    except (NotAWorkflow, OSError) as error:
        message = str(error) if isinstance(error, OSError) else f"{options.source}: {error}"
        _say(f"error: {message}", sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
