"""The style of all figures: size, frame, and files that are whole or not there."""

from pathlib import Path

import cv2
import pytest
from matplotlib.colors import to_rgb

from dinolab import plotting
from dinolab.plotting import COLOURS, DPI, MARKERS, STYLES, new_figure, open_frame, save


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
