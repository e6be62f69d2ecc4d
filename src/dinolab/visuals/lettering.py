"""Text in video frames: a font that has its letters, and text cut to the room it has."""

from functools import cache
from typing import Any

from matplotlib.font_manager import FontProperties, findfont
from PIL import ImageFont

from dinolab.errors import printable
from dinolab.plotting import escape, find_fonts, letters_of

Font = ImageFont.FreeTypeFont


@cache
def choose(text: str, bold: bool) -> tuple[str, Any]:
    """Choose the first font file that has all letters of a text.

    Where there is none, it is DejaVu Sans, which matplotlib contains, and codes such as \\u732b replace the letters that it lacks.
    """
    weight = "bold" if bold else "normal"
    files = [findfont(FontProperties(family="DejaVu Sans", weight=weight))]
    text = printable(text)
    for family in find_fonts(text, FontProperties(family="DejaVu Sans", weight=weight))[0][1:]:
        files.append(findfont(FontProperties(family=family, weight=weight)))
    for file in files:
        if letters_of(file).issuperset(text):
            return text, file
    return escape(text, set(text) - letters_of(files[0])), files[0]


def lettering(text: str, size: int, width: float, bold: bool = False, smallest: int = 0) -> tuple[str, Font]:
    """Return a text, and the font to draw it with, so that it is at most `width` pixels wide.

    Args:
        text: where it would be too wide, it is cut and ends with an ellipsis.
        size: of its letters, in pixels.
        width: in pixels.
        bold: whether the letters are bold.
        smallest: a long text gets smaller letters, down to this size, before it is cut; 0 keeps the size.
    """
    text, file = choose(text, bold)

    def load(size: int) -> Font:
        return ImageFont.truetype(file, size, index=getattr(file, "face_index", 0))

    while smallest and size > smallest and load(size).getlength(text) > width:
        size -= 2
    font = load(size)
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2] + "…"
    return text, font
