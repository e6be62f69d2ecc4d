"""Exported files hold what is in, as other tools read it, and an interrupted export goes on where it stopped."""

import json

import numpy as np
import pytest

from dinolab.curation import export
from dinolab.data.decode import read_image
from dinolab.data.sources import open_source
from dinolab.features.store import Store
from dinolab.options import Columns
from tests.curation.conftest import curate
from tests.curation.test_curate import contents, names_in


@pytest.fixture
def out(heap, tmp_path):
    curate("embed", tmp_path / "set", f"data={heap}")
    curate("dedup", tmp_path / "set")
    return tmp_path / "set"


def test_other_tools_read_images_and_embeddings(out, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(export, "AT_ONCE", 4)
    to = tmp_path / "exported"
    assert curate("export", out, f"to={to}", "per_file=10", "embeddings=float16") == 0
    assert len(list((to / "data").iterdir())) == 3
    read = datasets.load_dataset("parquet", data_dir=str(to / "data"), split="train", cache_dir=str(tmp_path / "kept"))
    assert isinstance(read.features["image"], datasets.Image)
    rows = {row["location"].rsplit("/", 1)[1]: row for row in read}
    assert set(rows) == names_in(out) and len(read) == len(rows)
    assert rows["04.png"]["image"].size == (64, 64) == (rows["04.png"]["width"], rows["04.png"]["height"])
    stored = Store(out)
    wanted = next(row for row, place in enumerate(stored.rows["location"]) if place.endswith("/04.png"))
    expected = stored.vectors(np.array([wanted]))[0].numpy()
    np.testing.assert_array_equal(np.array(rows["04.png"]["embedding"], np.float16), expected)
    raw = read.cast_column("image", datasets.Image(decode=False))[0]
    with open(raw["location"], "rb") as file:
        assert raw["image"] == {"bytes": file.read(), "path": raw["location"].rsplit("/", 1)[1]}
    again = open_source(str(to / "data"), Columns(label_column="label"), option="data")
    assert len(again) == len(read)
    np.testing.assert_array_equal(read_image(again.paths[0]), read_image(raw["location"]))
    chain = json.loads((to / "export.json").read_text())["lineage"]
    assert [one.get("stage", "embed") for one in chain] == ["embed", "dedup"]


def test_an_interrupted_export_goes_on(out, tmp_path, monkeypatch, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    words = ["per_file=10", "images=false"]
    curate("export", out, f"to={whole}", *words)
    write, left = export.write_file, [1]

    def stop(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(*arguments)

    monkeypatch.setattr(export, "write_file", stop)
    assert curate("export", out, f"to={broken}", *words) == 130
    monkeypatch.setattr(export, "write_file", write)
    assert curate("export", out, f"to={broken}", *words) == 0
    assert "25 images in 3 files; there already: 1" in capsys.readouterr().out
    assert contents(broken) == contents(whole)
    assert curate("export", out, f"to={broken}", "per_file=11") == 2
    assert "holds an export of another set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda heap, to: (heap / "10.png").unlink(), "10.png: no such file or directory; give `dinolab curate embed"),
        (lambda heap, to: (heap / "10.png").write_bytes(b"other"), "10.png: has changed since it was embedded"),
        (lambda heap, to: (to.mkdir(), (to / "mine.txt").touch()), "not empty; name a new folder"),
        (lambda heap, to: to.touch(), "exported: a file"),
    ],
)
def test_one_line_for_what_cannot_be_done(out, heap, tmp_path, capsys, change, message):
    change(heap, tmp_path / "exported")
    capsys.readouterr()
    assert curate("export", out, f"to={tmp_path / 'exported'}") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("*.parquet.*"))
