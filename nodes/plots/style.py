"""Plots by matplotlib in the style of the pack's pictures: the colours of `palette`, the font of `language`.

Only matplotlib's object interface is used, never pyplot, and no setting of the process is changed: other packs share
both, and a node may draw in any thread. matplotlib is imported where it is used, so the pack loads without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from .drawing import SCALE, plain
from .language import current
from .palette import Colour, palette

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

HOW_TO_INSTALL = (
    "Install it with the Python that runs ComfyUI, in the folder of this pack: "
    "python -m pip install -r requirements.txt"
)
TICK_SIZE, LABEL_SIZE = 17, 18  # of the text, in pixels

_PIXELS_PER_INCH = 100


class MatplotlibMissing(ImportError):
    """The plot cannot be drawn without matplotlib; the text says how to install it."""

    def __init__(self) -> None:
        super().__init__(f"This plot needs matplotlib. {HOW_TO_INSTALL}")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many pixels, in the colour of a card.

    Raises:
        MatplotlibMissing: if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MatplotlibMissing from error
    size = width / _PIXELS_PER_INCH, height / _PIXELS_PER_INCH
    figure = Figure(figsize=size, dpi=_PIXELS_PER_INCH * SCALE, facecolor=rgb(palette().card))
    figure.set_layout_engine("none")
    FigureCanvasAgg(figure)
    return figure


def render(figure: Figure) -> Image.Image:
    """The figure as an RGB picture, `SCALE` times as large as its pixels, for `Sheet.picture`."""
    canvas: Any = figure.canvas
    canvas.draw()
    return Image.frombuffer("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba())).convert("RGB")


def points(pixels: float) -> float:
    """matplotlib's unit for lines, markers and text, 1/72 inch."""
    return 72 * pixels / _PIXELS_PER_INCH


def rgb(colour: Colour) -> tuple[float, float, float]:
    """``colour`` as matplotlib takes it: 0 to 1."""
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def font(size: float) -> FontProperties:
    """The font of the pictures; ``size`` in pixels."""
    from matplotlib.font_manager import FontProperties

    return FontProperties(fname=str(current().font_file), size=points(size))


def text(size: float, colour: Colour) -> dict[str, Any]:
    """Options for a text: no formulas and no TeX, whatever its letters and the settings of the process are."""
    return {"fontproperties": font(size), "color": rgb(colour), "parse_math": False, "usetex": False}


def line(colour: Colour, width: float, **options: Any) -> dict[str, Any]:
    """Options for a line ``width`` pixels wide, without markers unless ``options`` has some."""
    plain_line = {"linestyle": "-", "marker": "None", "solid_capstyle": "butt", "solid_joinstyle": "round"}
    return plain_line | {"color": rgb(colour), "linewidth": points(width), "in_layout": False} | options


def marker(shape: str, radius: float, colour: Colour, edge: Colour | None = None) -> dict[str, Any]:
    """Options for markers without a line: ``radius`` in pixels, with an outline of ``edge`` where it is given."""
    diameter = 2 * radius / (2**0.5 if shape == "D" else 1)  # of "D": its side
    return {
        "linestyle": "None",
        "marker": shape,
        "markersize": points(diameter + (1.5 if edge else 0)),
        "markerfacecolor": rgb(colour),
        "markeredgecolor": rgb(edge or colour),
        "markeredgewidth": points(1.5) if edge else 0,
        "clip_on": False,
        "in_layout": False,
    }


def prepare_axes(axes: Axes) -> None:
    """Axes without a frame, in the style of the pictures; `set_ticks` adds labels and the grid."""
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(axis="both", which="both", length=0, pad=points(14), labelrotation=0)
    axes.tick_params(axis="x", pad=points(10), bottom=True, labelbottom=True, top=False, labeltop=False)
    axes.tick_params(axis="y", left=True, labelleft=True, right=False, labelright=False)


def set_ticks(axis: Axis, ticks: Sequence[float], labels: Sequence[str]) -> None:
    """These ticks only, each with its label and a line of the grid."""
    axis.set_ticks(list(ticks), labels=list(labels), **text(TICK_SIZE, palette().dim))
    axis.set_ticks([], minor=True)
    axis.grid(True, which="major", **line(palette().grid, 1), alpha=1)


def round_ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """About ``count`` round values from ``low`` to ``high``, whole numbers only if ``whole``."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(count, steps=[1, 2, 5, 10], integer=whole, min_n_ticks=1).tick_values(low, high)
    slack = 1e-9 * (high - low)
    return [float(tick) for tick in found if low - slack <= tick <= high + slack]


def fill_width(axes: Axes, bottom: float, top: float) -> None:
    """Put the axes ``bottom`` and ``top`` pixels from these edges of their figure, as wide as their labels allow."""
    figure: Any = axes.figure
    width, height = figure.bbox.size / SCALE
    left = right = 0.0
    for _ in range(3):  # a label inside the axes moves when they become narrower, so one round is not enough
        axes.set_position((left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height))
        needed = axes.get_tightbbox(figure.canvas.get_renderer())
        assert needed is not None  # it is None for invisible axes only
        left, right = max(0.0, left - needed.x0 / SCALE), max(0.0, right + needed.x1 / SCALE - width)


def draw_legend(figure: Figure, signs: Sequence[tuple[Artist, str]], left: float = 0.0) -> None:
    """The meaning of the signs, in a row at the lower edge of the figure, ``left`` pixels from its left edge."""
    from matplotlib.legend_handler import HandlerLine2D
    from matplotlib.lines import Line2D

    handles, labels = [sign for sign, _ in signs], [plain(meaning) for _, meaning in signs]
    legend = figure.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(left / (figure.bbox.width / SCALE), 0),
        ncols=len(signs),
        prop=font(TICK_SIZE),
        labelcolor=rgb(palette().dim),
        handler_map={
            sign: HandlerLine2D(numpoints=2)
            for sign in handles
            if isinstance(sign, Line2D) and sign.get_marker() == "|"  # the ends of a line
        },
        frameon=False,
        markerscale=1,
        numpoints=1,
        borderpad=0,
        borderaxespad=0,
        handlelength=1.2,
        handleheight=0.9,
        handletextpad=0.6,
        columnspacing=2.2,
    )
    for label in legend.get_texts():
        label.set(parse_math=False, usetex=False)
