"""Curves: which panels appear, what they show, and that something legible is drawn."""

import json
import math
import sys

import cv2
import numpy as np
import pytest

from dinolab.errors import UserError
from dinolab.methods import METHODS
from dinolab.panels import GRADIENT, KNN, SHARED, Panel
from dinolab.visuals import curves
from dinolab.visuals.curves import plot_metrics, plot_schedules, points

PANELS = (*METHODS["dinov2"].PANELS, KNN, GRADIENT, *SHARED)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def drawn(monkeypatch):
    """Titles of the panels drawn, and their axes, without a file."""
    panels = {}
    monkeypatch.setattr(
        curves, "save", lambda figure, out: panels.update({a.get_title("left"): a for a in figure.axes})
    )
    return panels


ROWS = [
    {"step": 10 * i, "epoch": i / 4, "loss": 9.0 - i, "dino": 5.0 - i, "ibot": 4.0, "lr": 1e-4 * i, "grad_norm": 2.0**i}
    for i in range(5)
]


def test_panels_follow_the_data(tmp_path, drawn):
    rows = [ROWS[0] | {"log_k": math.log(4096)}, *ROWS[1:], {"step": 40, "knn": 0.25}]
    plot_metrics(write(tmp_path / "metrics.jsonl", rows), tmp_path / "x.png", PANELS)
    assert list(drawn) == ["loss", "k-NN accuracy", "norm of the gradient", "learning rate"]
    lines = {line.get_label(): line for line in drawn["loss"].lines}
    assert set(lines) == {"log K", "sum", "DINO", "iBOT"}
    assert lines["log K"].get_ydata()[0] == pytest.approx(8.3178, abs=1e-3)
    assert lines["log K"].get_linestyle() == "--"
    assert lines["DINO"].get_xdata().tolist() == [0, 10, 20, 30, 40]
    assert lines["DINO"].get_ydata().tolist() == [5, 4, 3, 2, 1]
    assert len({line.get_color() for line in lines.values()}) == 4
    assert drawn["k-NN accuracy"].yaxis.get_major_formatter()(0.25, 0) == "25 %"
    assert drawn["norm of the gradient"].get_yscale() == "log"


def test_without_log_k_no_line(tmp_path, drawn):
    plot_metrics(write(tmp_path / "m.jsonl", ROWS), tmp_path / "x.png", PANELS)
    assert "log K" not in [line.get_label() for line in drawn["loss"].lines]


def test_every_metric_has_its_panel(tmp_path, drawn):
    health = ["teacher_entropy", "kl", "effective_rank", "prototypes_used", "centre_norm", "grad_norm"]
    schedules = ["lr", "momentum", "teacher_temperature", "weight_decay"]
    for key in ["loss", "dino", "ibot", "koleo", "knn", "images_per_s", "data_wait", *health, *schedules]:
        drawn.clear()
        plot_metrics(write(tmp_path / "m.jsonl", [{"step": 5, key: 0.5}]), tmp_path / "x.png", PANELS)
        (axes,) = drawn.values()
        assert axes.lines[0].get_ydata().tolist() == [0.5]
        assert axes.lines[0].get_marker() == "o"  # one point alone is seen


def test_values_that_are_not_finite_are_left_out():
    rows = [{"step": 0, "loss": 1.0}, {"step": 1, "loss": math.nan}, {"step": 2, "loss": None}, {"step": 3}]
    assert points(rows, "loss") == ([0], [1.0])


def test_a_damaged_line_is_left_out_with_a_warning(tmp_path, drawn, caplog):
    (tmp_path / "m.jsonl").write_text('{"step": 0, "loss": 3}\nnonsense\n{"step": 1, "loss": 2}\n{"step": 2, "lo')
    plot_metrics(tmp_path / "m.jsonl", tmp_path / "x.png", PANELS)
    assert drawn["loss"].lines[0].get_ydata().tolist() == [3, 2]
    assert (
        "m.jsonl, line 2: left out" in caplog.text and caplog.text.count("left out") == 1
    )  # a cut last line is normal


def test_a_run_is_named_by_its_folder(tmp_path, drawn):
    write(tmp_path / "metrics.jsonl", ROWS)
    plot_metrics(tmp_path, tmp_path / "x.png", PANELS)
    assert drawn["loss"].figure.get_suptitle() == f"{tmp_path.name}: step 40, epoch 1"


def test_panels_of_a_group_stand_together(tmp_path, drawn):
    panels = [
        Panel(group, title, {"loss": "loss"}) for group, title in (("b", "1"), ("a", "2"), ("b", "3"), ("a", "4"))
    ]
    plot_metrics(write(tmp_path / "m.jsonl", ROWS), tmp_path / "x.png", panels)
    assert list(drawn) == ["1", "3", "2", "4"]


def test_only_the_given_panels_are_drawn(tmp_path, drawn):
    panels = (
        Panel("Toys", "balls", {"balls": "red", "dolls": "blue"}, percent=True, level="most", level_label="all"),
        *SHARED,
    )
    rows = [{"step": 0, "balls": 0.5, "most": 0.75, "lr": 0.1, "loss": 7.0}]
    plot_metrics(write(tmp_path / "m.jsonl", rows), tmp_path / "x.png", panels)
    assert list(drawn) == ["balls", "learning rate"]
    level, curve = drawn["balls"].lines
    assert (level.get_label(), level.get_ydata()[0], curve.get_label()) == ("all", 0.75, "red")
    assert drawn["balls"].yaxis.get_major_formatter()(0.5, 0) == "50 %"
    drawn.clear()
    plot_schedules(rows, tmp_path / "x.png", panels[1:])
    assert list(drawn) == ["learning rate"]


def test_missing_and_empty_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
        plot_metrics(tmp_path / "none.jsonl", tmp_path / "x.png", PANELS)
    (tmp_path / "m.jsonl").write_text("")
    with pytest.raises(UserError, match=r"m\.jsonl: holds no figures yet"):
        plot_metrics(tmp_path / "m.jsonl", tmp_path / "x.png", PANELS)


def test_pngs_have_ink_of_the_right_colour_and_leave_pyplot_alone(tmp_path):
    had_pyplot = "matplotlib.pyplot" in sys.modules
    rows = [
        {"step": i, "lr": 0.1 * i, "weight_decay": 0.2, "momentum": 0.9, "teacher_temperature": 0.04} for i in range(50)
    ]
    plot_schedules(rows, tmp_path / "new" / "s.png", PANELS)
    image = cv2.imread(str(tmp_path / "new" / "s.png"))
    height, width = image.shape[:2]
    assert width >= 1200  # two columns of 4.2 inches at 150 dpi
    assert height >= 800
    blue = np.abs(image.astype(int) - (0xB2, 0x72, 0x00)).max(2) < 12
    quarters = [part.sum() for half in np.array_split(blue, 2) for part in np.array_split(half, 2, axis=1)]
    assert min(quarters) > 500  # a curve in each of the four panels
    assert (image[0] == 255).all()
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot
