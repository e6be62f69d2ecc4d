"""The style of all figures: size, frame, and files that are whole or not there."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.colors import to_rgb

from dinolab import plotting
from dinolab.plotting import COLOURS, DPI, MARKERS, STYLES, new_figure, open_frame, readable, save
from dinolab.visuals import lettering


def test_a_figure_has_its_size_in_pixels_on_white(tmp_path: Path) -> None:
    save(new_figure(3, 2), tmp_path / "new" / "a.png")
    picture = cv2.imread(str(tmp_path / "new" / "a.png"))
    assert picture.shape == (2 * DPI, 3 * DPI, 3) and (picture == 255).all()
    save(new_figure(3, 2), tmp_path / "b.png", dpi=50)
    assert cv2.imread(str(tmp_path / "b.png")).shape == (100, 150, 3)


@pytest.mark.parametrize(
    ("grid", "lines"), [("both", [True, True]), ("x", [True, False]), ("y", [False, True]), ("", [False] * 2)]
)
def test_a_frame_is_open_at_the_top_and_right_and_has_its_grid(grid: str, lines: list[bool]) -> None:
    axes = new_figure(3, 2).add_subplot()
    open_frame(axes, grid)
    assert {name for name, spine in axes.spines.items() if spine.get_visible()} == {"left", "bottom"}
    assert [any(line.get_visible() for line in axis.get_gridlines()) for axis in (axes.xaxis, axes.yaxis)] == lines
    assert axes.get_axisbelow() is True


def test_a_figure_that_cannot_be_drawn_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a.png"
    out.write_bytes(b"old")
    figure = new_figure(3, 2)
    monkeypatch.setattr(figure, "savefig", lambda place, **options: (Path(place).write_bytes(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        save(figure, out)
    assert out.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_curves_differ_in_more_than_their_colour() -> None:
    assert len({to_rgb(colour) for colour in COLOURS}) == len(COLOURS)
    assert len(set(STYLES)) == len(STYLES) and len(set(MARKERS)) == len(MARKERS)
    assert not hasattr(plotting, "pyplot")


def write_font(path: Path, family: str, letter: str) -> None:
    """A font whose one letter is a black square."""
    pen = TTGlyphPen(None)
    for n, point in enumerate(((0, 0), (0, 1000), (1000, 1000), (1000, 0))):
        (pen.lineTo if n else pen.moveTo)(point)
    pen.closePath()
    square = pen.glyph()
    font = FontBuilder(1000)
    font.setupGlyphOrder([".notdef", "square"])
    font.setupCharacterMap({ord(letter): "square"})
    font.setupGlyf({".notdef": square, "square": square})
    font.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    font.setupHorizontalHeader(ascent=1000, descent=0)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)


@pytest.fixture
def fonts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The one folder of fonts, beside matplotlib's own, whatever fonts the machine has."""
    own = [entry for entry in plotting.fontManager.ttflist if entry.name.startswith("DejaVu")]
    monkeypatch.setattr(plotting.fontManager, "ttflist", own)
    monkeypatch.setattr(plotting, "FONT_FOLDERS", (str(tmp_path / "fonts"),))
    (tmp_path / "fonts").mkdir()
    for function in (plotting.fallbacks, lettering.choose):
        function.cache_clear()
    yield tmp_path / "fonts"
    for function in (plotting.fallbacks, lettering.choose):
        function.cache_clear()


@pytest.mark.parametrize("installed", [True, False])
def test_letters_that_matplotlibs_font_lacks(
    installed: bool,
    fonts: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    (fonts / "damaged.ttf").write_bytes(b"no font")
    if installed:
        write_font(fonts / "square.ttf", "Noto Sans Square", "猫")
    figure = new_figure(3, 2)
    axes = figure.add_subplot()
    title = axes.set_title("Bär\n猫", weight="bold")
    axes.set_yticks([0.5], [readable("猫\t")], parse_math=False)
    save(figure, tmp_path / "a.png")
    assert title.get_text() == ("Bär\n猫" if installed else "Bär\n\\u732b")
    assert axes.get_yticklabels()[0].get_text() == ("猫\\t" if installed else "\\u732b\\t")
    dark = (cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_GRAYSCALE) < 64).astype(np.uint8)
    squares = cv2.connectedComponents(cv2.erode(dark, np.ones((12, 12))))[0] - 1
    assert squares == (2 if installed else 0)
    text, font = lettering.lettering("猫", 20, 200)  # in videos
    assert text == ("猫" if installed else "\\u732b")
    assert (np.array(font.getmask(text)).min() == 255) == installed
    assert not recwarn.list and capfd.readouterr() == ("", "")
