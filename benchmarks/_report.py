"""What benchmarks and figures share: markdown tables, facts about the machine, and figures in one style.

The standard library only; matplotlib is imported where a figure is made.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPO = Path(__file__).resolve().parent.parent
RESULTS = REPO / "benchmarks" / "results"

# --- markdown


def row(cells: Iterable[object]) -> str:
    """A line of a markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def table(titles: Sequence[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """The lines of a markdown table."""
    return [row(titles), "|---" * len(titles) + "|", *map(row, rows)]


class Table:
    """A markdown table that prints each row when it is added, so that a long measurement shows its progress."""

    def __init__(self, *titles: str) -> None:
        self.lines = table(titles, [])

    def add(self, *cells: object) -> None:
        self.lines.append(row(cells))
        print(self.lines[-1], flush=True)


def write(path: Path, lines: Iterable[str]) -> None:
    """Write the lines of a report; its folder is made if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


# --- facts


def command(*, without: Sequence[str] = ("--out", "--output")) -> str:
    """The command that runs this process, in backticks: relative to the repository, and ``without`` these options."""
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(REPO).as_posix() if script.is_relative_to(REPO) else script.name
    told, words = [], iter(sys.argv[1:])
    for word in words:
        if word in without:
            next(words, None)
        elif word.partition("=")[0] not in without:
            told.append(word)
    return f"`{shlex.join(['python', name, *told])}`"


def date() -> str:
    """Today, as in 2026-11-30."""
    return time.strftime("%Y-%m-%d")


def machine(threads: int | None = None) -> str:
    """The versions and the processor in words. ``threads``: of one tensor operation on the CPU, if that is known."""
    facts = [
        f"torch {importlib.metadata.distribution('torch').version}",
        f"Python {platform.python_version()}",
        f"{platform.system()} {platform.machine()}",
        f"{os.cpu_count()} CPU cores",
    ]
    if threads is not None:
        facts.append(f"{threads} thread{'s' * (threads != 1)} per operation")
    if hasattr(os, "getloadavg"):
        facts.append(f"load {os.getloadavg()[0]:.1f}")
    return ", ".join(facts)


def device_facts(device: Any) -> dict[str, Any]:
    """For a JSON file: the date, the versions, and the name and memory of a ``torch.device``."""
    import torch

    cuda = device.type == "cuda"
    name = "CPU"
    if cuda:
        properties = torch.cuda.get_device_properties(device)
        name = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return {
        "date": date(),
        "device": name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def first_line(error: BaseException, length: int = 200) -> str:
    """The type and the first line of an error, for a report, without the path of the repository."""
    said = (str(error).strip().splitlines() or [""])[0].replace(str(REPO), ".")[:length]
    return f"{type(error).__name__}: {said}"


# --- figures

PAPER, INK, DIM, GRID = "#ffffff", "#1f2430", "#6b7280", "#d9dde4"

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": DIM,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": DIM,
    "ytick.color": DIM,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "legend.frameon": False,
}


def require_matplotlib() -> None:
    """Before a long measurement whose figure needs it.

    Raises:
        SystemExit: with the command that installs it.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise SystemExit("the figures need matplotlib: pip install matplotlib") from error


@contextmanager
def figure(width: float, height: float, dpi: float, *, grid: bool = False, **options: Any) -> Iterator[Figure]:
    """An empty figure of ``width`` by ``height`` inches; the style holds inside the ``with`` block.

    ``grid``: axes have one. ``options``: of ``matplotlib.figure.Figure``.
    """
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**_STYLE, "axes.grid": grid}):
        yield Figure(figsize=(width, height), dpi=dpi, **options)
