"""The one style of all matplotlib figures: colours, line styles, frames, and how a figure is saved.

Figures are made from matplotlib's Figure, not pyplot: nothing global is touched, no window is opened.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text

from dinolab.errors import one_line
from dinolab.files import beside

DPI = 150
# The colours of Okabe and Ito, which colour-blind readers can tell apart. Styles and markers repeat the distinction.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")


def new_figure(width: float, height: float) -> Figure:
    """A white figure of this size in inches, whose parts matplotlib arranges without overlaps."""
    return Figure((width, height), layout="constrained", facecolor="white")


def open_frame(axes: Axes, grid: str = "both") -> None:
    """Remove the frame's upper and right line, and draw a light grid below the data.

    Args:
        grid: "x", "y" or "both": the axes whose ticks get grid lines; "" for none.
    """
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if grid:
        axes.grid(axis=grid, color="0.9", linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def labels(axis: Axis) -> list[Text]:
    """The numbers or names along an axis."""
    return [*axis.get_majorticklabels(), *axis.get_minorticklabels()]


def save(figure: Figure, out: Path, dpi: int = DPI, tight: bool = False) -> None:
    """Write the figure as PNG; the file is whole or not there.

    Texts are written as they are, with escapes for what cannot be printed: a name such as "$x$" is no formula.
    """
    ticks = {id(label) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in labels(axis)}
    for text in figure.findobj(Text):
        if id(text) not in ticks and isinstance(text, Text):  # numbers at a logarithmic axis are formulas
            text.set_parse_math(False)
            text.set_text("\n".join(map(one_line, text.get_text().split("\n"))))
    out.parent.mkdir(parents=True, exist_ok=True)
    with beside(out) as place:
        figure.savefig(place, dpi=dpi, facecolor="white", format="png", bbox_inches="tight" if tight else None)
