"""Text in video frames: a font, and text cut to the room it has."""

import matplotlib
from PIL import ImageFont

Font = ImageFont.FreeTypeFont


def load_font(size: int, bold: bool = False) -> Font:
    """Load DejaVu Sans, which matplotlib contains, with letters of `size` pixels."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans{'-Bold' * bold}.ttf", size)


def shorten(text: str, font: Font, width: float) -> str:
    """Cut a text, and end it with an ellipsis, where it would be wider than `width` pixels."""
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2] + "…"
    return text


def fitting_font(text: str, size: int, width: float, smallest: int = 16) -> Font:
    """Load a bold font in which the text is at most `width` pixels wide: of this size, or smaller, down to `smallest`."""
    while size > smallest and load_font(size, bold=True).getlength(text) > width:
        size -= 2
    return load_font(size, bold=True)
