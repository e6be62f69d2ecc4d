"""The one style of all matplotlib figures: colours, line styles, frames, and how a figure is saved.

Figures are made from matplotlib's Figure, not pyplot: nothing global is touched, no window is opened.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager, get_font
from matplotlib.text import Text

from dinolab.errors import one_line, printable
from dinolab.files import beside

DPI = 150
# The colours of Okabe and Ito, which colour-blind readers can tell apart. Styles and markers repeat the distinction.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
# Matplotlib's own font has no Chinese, Japanese, Korean or Hindi. Families of Linux, macOS and Windows that have; "Noto Sans" of any
# other script is tried after them.
FAMILIES = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Noto Sans Devanagari", "Noto Emoji", "Symbola", "WenQuanYi Zen Hei",
    "Droid Sans Fallback", "Unifont", "Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Kohinoor Devanagari", "Arial Unicode MS",
    "Yu Gothic", "Microsoft YaHei", "Malgun Gothic", "Nirmala UI", "Segoe UI Emoji",
)  # fmt: skip
# Folders of Linux with fonts, which may be newer than matplotlib's list of them
FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")

logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it would name fonts that have no bold letters


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


@cache
def fallbacks() -> dict[str, str]:
    """The installed families of FAMILIES and of Noto, best first, each with a file. Called only where the usual font lacks a letter."""
    known = {entry.fname for entry in fontManager.ttflist}  # matplotlib's list, which is as old as its first use
    for path in findSystemFonts([str(Path(folder).expanduser()) for folder in FONT_FOLDERS]):
        if path not in known:
            with suppress(Exception):  # bitmaps, such as Noto Color Emoji, and damaged files
                fontManager.addfont(path)
    files = {entry.name: str(entry.fname) for entry in fontManager.ttflist}
    others = sorted(name for name in files if name.startswith("Noto Sans "))
    return {name: files[name] for name in (*FAMILIES, *others) if name in files}


@cache
def letters_of(path: str) -> frozenset[str]:
    """The letters that a font file has; none where the file is gone or cannot be read."""
    try:
        return frozenset(map(chr, get_font(path).get_charmap()))
    except (OSError, RuntimeError):
        return frozenset()


def find_fonts(text: str, usual: FontProperties) -> tuple[list[str], set[str]]:
    """The font families that together have the letters of a text, the usual ones first; and the letters that no font has."""
    families = list(usual.get_family())
    missing = {letter for letter in text if not letter.isascii()}
    missing -= letters_of(findfont(usual)) if missing else set()
    for family, file in fallbacks().items() if missing else ():
        if found := missing & letters_of(file):
            families, missing = [*families, family], missing - found
        if not missing:
            break
    return families, missing


def escape(text: str, letters: Iterable[str]) -> str:
    """The text with codes such as \\u732b in place of some letters."""
    return "".join(c.encode("unicode_escape").decode() if c in letters else c for c in text)


def readable(name: str) -> str:
    """A name as it is written at an axis: printable, with codes such as \\u732b for letters that no installed font has."""
    return escape(printable(name), find_fonts(printable(name), FontProperties())[1])


def fit_fonts(text: Text) -> None:
    """Give a text the fonts that its letters need; letters that no installed font has become codes such as \\u732b."""
    families, missing = find_fonts(text.get_text(), text.get_fontproperties())
    text.set_fontfamily(families)
    if missing:
        text.set_text(escape(text.get_text(), missing))


def save(figure: Figure, out: Path, dpi: int = DPI, tight: bool = False) -> None:
    """Write the figure as PNG; the file is whole or not there.

    Texts are written as they are, with escapes for what cannot be printed: a name such as "$x$" is no formula.
    """
    ticks = {id(label) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in labels(axis)}
    for text in figure.findobj(Text):
        if id(text) not in ticks and isinstance(text, Text):  # numbers at a logarithmic axis are formulas
            text.set_parse_math(False)
            text.set_text("\n".join(map(one_line, text.get_text().split("\n"))))
        if isinstance(text, Text):
            fit_fonts(text)
    out.parent.mkdir(parents=True, exist_ok=True)
    with beside(out) as place:
        figure.savefig(place, dpi=dpi, facecolor="white", format="png", bbox_inches="tight" if tight else None)
