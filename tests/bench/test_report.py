"""Reports: a table, a JSON file with command and machine, a picture; interrupted runs keep what they have."""

import json
import sys

import matplotlib.image
import pytest
import torch

from dinolab.bench.common import Setting
from dinolab.bench.report import bars, cell, collect, report

COLUMNS = {
    "what": ("variant", ""),
    "images_per_s": ("images/s", ",.1f"),
    "share": ("share", ".0%"),
    "absent": ("x", ""),
}
ROWS = [{"what": "one", "images_per_s": 1234.5, "share": 0.25}, {"what": "two", "note": "out of memory"}]
SETTING = Setting(torch.device("cpu"), torch.bfloat16, 0.5)


def test_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/somewhere/dinolab", "bench", "step", "data.path=my photos"])
    report("step", "A step", ROWS, COLUMNS, tmp_path / "new", SETTING, "One is faster.")
    shown = capsys.readouterr().out
    for words in ("A step", "images/s", "1,234.5", "25%", "out of memory", "One is faster.", "step.json"):
        assert words in shown
    assert " x " not in shown  # a column without a figure
    written = json.loads((tmp_path / "new" / "step.json").read_text())
    assert written["command"] == "dinolab bench step 'data.path=my photos'"
    assert written["rows"] == ROWS and written["conclusion"] == "One is faster."
    assert written["dtype"] == "bfloat16" and written["device"] == "cpu" and written["seconds"] == 0.5
    assert written["environment"]["packages"]["torch"] == torch.__version__


def test_cells():
    assert cell(None, ".1f") == ""
    assert cell([1.25, 3.0], ".2f") == "1.25 – 3.00"
    assert cell(0.5, ".0%") == "50%"


def test_bars(tmp_path):
    panels = {key: COLUMNS[key] for key in ("images_per_s", "share", "absent")}
    bars(ROWS, ["one", "two"], panels, "title", tmp_path / "b.png")
    picture = matplotlib.image.imread(tmp_path / "b.png")
    assert picture.shape[1] > 1000 and picture.std() > 0.05
    bars([ROWS[1]], ["two"], panels, "nothing could be measured", tmp_path / "none.png")
    assert (tmp_path / "none.png").stat().st_size > 0


def test_an_interrupt_keeps_the_rows_so_far(capsys):
    def rows():
        yield ROWS[0]
        raise KeyboardInterrupt

    assert collect(rows(), ("what",)) == ROWS[:1]
    assert "stopped" in capsys.readouterr().err


def test_an_interrupt_before_the_first_row_is_one():
    def rows():
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        collect(rows(), ("what",))
