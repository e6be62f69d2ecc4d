"""Copy detection on planted images: Copydays' layout, copies by name, and copies that are made."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import dinolab
from dinolab.data.sources import open_source
from dinolab.errors import UserError
from dinolab.evals.copies_made import KINDS, MadeCopies
from dinolab.evals.copies_sets import make, original_of
from dinolab.evals.result import Result
from dinolab.features.extract import extract
from dinolab.features.pixels import PixelEncoder
from dinolab.features.views import View
from tests.evals.test_retrieval import texture, write


def search(data: Any, **options: Any) -> Result:
    given = {"size": 32, "cache": "none", "tokens": "cls", **options}
    return dinolab.evaluate("copies", "pixels", data=data, **given)


def blurred(place: int) -> np.ndarray:
    return cv2.GaussianBlur(texture(place), (0, 0), 5)


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    for place in range(6):
        write(tmp_path / "set" / "original", f"200{place}00", texture(place))
    return tmp_path / "set"


def test_copydays_layout(originals: Path, tmp_path: Path) -> None:
    for place in range(6):
        write(originals / "strong", f"200{place}01", blurred(place))
        write(originals / "jpegqual" / "3", f"200{place}00", texture(place))
    write(originals / "strong", "200002", texture(1))  # which looks like another original
    found = search(originals, out=tmp_path / "out")
    assert found.parts["jpegqual/3"] == {"map": 1, "first": 1}
    assert found.main.value == found.parts["strong"]["map"]
    assert found.figures["first"].value == pytest.approx(6 / 7)
    assert (found.data["test_images"], found.data["copies_in_all"], found.data["originals"]) == (7, 13, 6)
    assert found.data["test"] != "Copydays"  # which has 157 originals
    assert (tmp_path / "out" / "pictures" / "answers.png").is_file()

    write(tmp_path / "nearer", "a", blurred(2))
    nearer = search(originals, distractors=str(tmp_path / "nearer"))
    assert nearer.main.value == pytest.approx(found.main.value - 0.75 / 7)  # AP of the second place is 1 / 4
    assert search(originals, whitening=str(originals / "original")).main.value > 0.5

    write(originals / "strong", "999901", texture(0))
    with pytest.raises(UserError, match="1 of 8 copies have no original: 999901"):
        search(originals)


def test_an_original_beyond_the_best_20_is_not_found(tmp_path: Path) -> None:
    write(tmp_path / "originals", "a", texture(0))
    write(tmp_path / "copies", "a-1", texture(1))
    for number in range(20):
        write(tmp_path / "others", str(number), texture(1))
    given = {"copies": str(tmp_path / "copies"), "distractors": str(tmp_path / "others")}
    assert search(tmp_path / "originals", **given).main.value == 0
    (tmp_path / "others" / "0.png").unlink()
    assert search(tmp_path / "originals", **given).main.value == pytest.approx(1 / 40)


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("cat.png", 0), ("cat_small.png", 0), ("cat-2.copy.jpg", 0), ("strong/cat.png", 0), ("cat/1.png", 0), ("cat-b-1.png", 1),
        ("catalogue.png", -1), ("dog.png", -1), ("cat2.png", -1), ("cat/cat-b.png", 0),
    ],
)  # fmt: skip
def test_which_original_a_name_belongs_to(name: str, original: int) -> None:
    assert original_of(name, {"cat": 0, "cat-b": 1}) == original


def test_copies_by_name_in_blocks(originals: Path, tmp_path: Path) -> None:
    write(tmp_path / "copies" / "blurred", "200000_a", texture(0))
    write(tmp_path / "copies" / "other", "200100_a", texture(0))
    write(tmp_path / "copies" / "200200", "x", texture(2))
    found = search(originals / "original", copies=str(tmp_path / "copies"))
    assert {name: one["first"] for name, one in found.parts.items()} == {"blurred": 1, "other": 0, "all": 1}
    assert found.figures["first"].value == pytest.approx(2 / 3)
    write(tmp_path / "copies" / "other", "else", texture(0))
    with pytest.raises(UserError, match=r"1 of 4 copies have no original: other/else\.png; a copy begins with"):
        search(originals / "original", copies=str(tmp_path / "copies"))


def test_made_copies(originals: Path) -> None:
    found = search(originals / "original", made=4, seed=1)
    assert list(found.parts) == list(KINDS) and found.parts["jpegqual/75"]["map"] == 1
    assert (found.data["originals"], found.data["database_images"], found.data["test_images"]) == (4, 6, 4)
    assert found.figures == search(originals / "original", made=4, seed=1).figures

    image = cv2.resize(texture(3), (90, 60))
    copies = {kind: MadeCopies(kind, 0)(5, image) for kind in KINDS}
    sizes = {kind: copy.shape[0] * copy.shape[1] / (90 * 60) for kind, copy in copies.items()}
    assert sizes["jpegqual/3"] == 1 and sizes["crops/80"] == pytest.approx(0.2, abs=0.02)
    for kind, copy in copies.items():
        assert copy.dtype == np.uint8 and (copy == MadeCopies(kind, 0)(5, image)).all()
        if not kind.startswith("jpegqual"):
            assert copy.tobytes() != MadeCopies(kind, 1)(5, image).tobytes() != MadeCopies(kind, 1)(6, image).tobytes()
    source = open_source(str(originals / "original"))
    block = make("crops/50", source, seed=0)
    view = View((16, 16), "squash")
    plain, cut = (
        extract(PixelEncoder(), source, View((16, 16), "squash", c), progress=False) for c in (None, block.change)
    )
    assert view.key() != View((16, 16), "squash", block.change).key()
    assert not (plain.matrix() == cut.matrix()).all(1).any()
    for tiny in (np.zeros((1, 1, 3), np.uint8), np.zeros((9, 200, 3), np.uint8)):
        assert all(MadeCopies(kind, 0)(0, tiny).ndim == 3 for kind in KINDS)


def test_mistakes(originals: Path) -> None:
    with pytest.raises(UserError, match="no folder of copies beside original/"):
        search(originals)
    with pytest.raises(UserError, match="data is not set"):
        search("")
    write(originals / "strong", "200001", texture(0))
    (originals / "strong" / "200001.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="none of its 1 images can be read"):
        search(originals)
    write(originals / "original", "200099", texture(0))
    with pytest.raises(UserError, match="two originals begin with the same 4 characters"):
        search(originals)
