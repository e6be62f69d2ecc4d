"""Retrieval on planted images: revisited Oxford's layout, labelled folders, and ground truths that are wrong or malicious."""

import csv
import json
import pickle
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import dinolab
from dinolab.errors import UserError
from dinolab.evals.result import Result
from dinolab.evals.retrieval_truth import LISTS, read_truth
from tests.pictures import make_folder

PLACES = 4


def texture(place: int) -> np.ndarray:
    """Coarse random squares, the same for the same place."""
    squares = np.random.default_rng(place).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return cv2.resize(squares, (48, 40), interpolation=cv2.INTER_NEAREST)


def write(folder: Path, name: str, image: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / f"{name}.png"), image)


def search(data: Any, **options: Any) -> Result:
    return dinolab.evaluate("retrieval", "pixels", data=data, size=32, cache="none", **options)


@pytest.fixture
def truth(tmp_path: Path) -> dict[str, Any]:
    """Four places with an easy image (as it is), a hard one (mirrored) and a junk one (as it is); queries lie on a larger ground.

    The last place has no easy image. Files are written into jpg/ of the test's folder.
    """
    jpg, images, queries, answers = tmp_path / "jpg", [], [], []
    for place in range(PLACES):
        image = texture(place)
        ground = np.random.default_rng(99 + place).integers(0, 256, (80, 96, 3), dtype=np.uint8)
        ground[20:60, 10:58] = image
        write(jpg, f"query{place}", ground)
        queries.append(f"query{place}")
        lists: dict[str, list[int]] = {name: [] for name in LISTS}
        for name, shown in zip(LISTS, (image, image[:, ::-1], image)):
            if (place, name) != (PLACES - 1, "easy"):
                lists[name].append(len(images))
                write(jpg, f"{name}{place}", shown)
                images.append(f"{name}{place}")
        answers.append({"bbx": [10.0, 20.0, 58.0, 60.0], **lists})
    return {"imlist": images, "qimlist": queries, "gnd": answers}


def keep(folder: Path, truth: dict[str, Any]) -> Path:
    (folder / "gnd_toy.json").write_text(json.dumps(truth))
    return folder


def test_revisited_layout(tmp_path: Path, truth: dict[str, Any]) -> None:
    out = tmp_path / "out"
    found = search(keep(tmp_path, truth), out=out)
    assert found.parts["Easy"] == {"map": 1, "precision1": 1, "precision5": 1, "precision10": 1}
    assert found.figures["easy"].value == 1 and found.figures["map"].value == found.parts["Medium"]["map"] < 1
    assert found.parts["Hard"]["map"] == found.figures["hard"].value < found.figures["map"].value
    assert found.data["test"] == "toy" and found.data["test_images"] == PLACES
    assert found.data["gallery_images"] == 3 * PLACES - 1
    low, high = found.main.interval
    assert low <= found.main.value <= high
    rows = list(csv.reader((out / "answers.csv").open()))
    assert len(rows) == 1 + PLACES
    assert {"easy0.png (right)", "junk0.png (not counted)"} == set(rows[1][2:4])
    assert cv2.imread(str(out / "pictures" / "answers.png")).shape[0] > 100

    uncropped = search(tmp_path, crop=False)
    assert uncropped.main.value < found.main.value
    further = search(tmp_path, distractors=str(make_folder(tmp_path / "more", per_class=3)))
    assert further.data["gallery_images"] == found.data["gallery_images"] + 6
    assert further.main.value <= found.main.value and "distractors" in further.data["test"]
    assert search(tmp_path, multi_scale=True).main.value > 0.5


def test_pickles_of_all_protocols_are_read_as_the_json(tmp_path: Path, truth: dict[str, Any]) -> None:
    arrays = [
        {name: np.array(value, type(value[0]) if value else int) for name, value in one.items()} for one in truth["gnd"]
    ]
    arrays[0]["bbx"] = [np.float64(corner) for corner in truth["gnd"][0]["bbx"]]
    arrays[1]["junk"] = arrays[1]["junk"].astype(">i4")
    expected = read_truth(keep(tmp_path, truth) / "gnd_toy.json")
    assert expected.boxes == [(10, 20, 58, 60)] * PLACES
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for gnd in (truth["gnd"], arrays):
            file = tmp_path / "truth.pkl"
            file.write_bytes(pickle.dumps({**truth, "gnd": gnd}, protocol))
            found = read_truth(file)
            assert found[:3] == expected[:3]
            for ours, theirs in zip(found.lists, expected.lists, strict=True):
                assert {k: v.tolist() for k, v in ours.items()} == {k: v.tolist() for k, v in theirs.items()}


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def test_a_number_of_an_object_takes_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "gnd_toy.pkl"
    file.write_bytes(b"}r" + (1 << 26).to_bytes(4, "little") + b".")  # "object number 67,108,864 is a dict"
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="it lacks"):
            read_truth(file)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, truth: dict[str, Any], protocol: int) -> None:
    mark, file = tmp_path / "mark", tmp_path / "gnd_toy.pkl"
    for call in (Call(open, str(mark), "w"), Call(eval, f"open({str(mark)!r}, 'w')"), Call(np.memmap, str(mark), "u1")):
        file.write_bytes(pickle.dumps({**truth, "more": call}, protocol))
        with pytest.raises(UserError, match=r"gnd_toy\.pkl: refused: it wants to use \S+, and a ground truth needs"):
            search(tmp_path)
    file.write_bytes(pickle.dumps({**truth, "more": np.array([Call(open, str(mark), "w")])}, protocol))
    with pytest.raises(UserError, match="refused"):
        search(tmp_path)
    assert not mark.exists()


def change(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda truth: truth["gnd"][1].update({key: value})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda truth: truth.pop("gnd"), "it lacks gnd"),
        (lambda truth: truth["gnd"].pop(), "4 queries, and answers for 3"),
        (lambda truth: truth["imlist"].append("lost"), r"names 1 of 16 images that are not in .*jpg: lost"),
        (change("easy", [99]), "query query1 names images beyond the list of 11"),
        (change("easy", ["one"]), r"gnd\[1\].easy\[0\] is not a whole number"),
        (change("bbx", [1, 2, 3]), "the box of query query1 is not left, top, right, bottom"),
        (change("bbx", [100, 10, 120, 20]), r"box of query query1 \(100, 10, 120, 20\) is outside its 96 x 80 image"),
    ],
)
def test_ground_truths_that_are_wrong(tmp_path: Path, truth: dict[str, Any], spoil: Any, message: str) -> None:
    spoil(truth)
    with pytest.raises(UserError, match=message):
        search(keep(tmp_path, truth))


def test_other_mistakes(tmp_path: Path, truth: dict[str, Any]) -> None:
    folder = keep(tmp_path, truth)
    with pytest.raises(UserError, match="names the queries; leave query empty"):
        search(folder, query=str(folder / "jpg"))
    (folder / "gnd_other.pkl").write_bytes(b"")
    with pytest.raises(UserError, match="several ground truths"):
        search(folder)
    (folder / "gnd_toy.json").unlink()
    with pytest.raises(UserError, match=r"gnd_other\.pkl: damaged, or no ground truth \(EOFError\)"):
        search(folder)
    (folder / "gnd_other.pkl").write_bytes(pickle.dumps(truth))
    shutil.rmtree(folder / "jpg")
    with pytest.raises(UserError, match="jpg: the images of a ground truth belong there"):
        search(folder)
    with pytest.raises(UserError, match="data is not set"):
        search("")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Five objects with two identical images each, and one that has a single image."""
    for place in range(6):
        for number in range(2 if place < 5 else 1):
            write(tmp_path / "pairs" / f"object{place}", f"{place}-{number}", texture(place))
    return tmp_path / "pairs"


def test_labelled_images_are_searched_for_among_the_others(pairs: Path) -> None:
    found = search(pairs)
    assert [found.figures[key].value for key in ("map", "recall1", "recall5", "recall10")] == [1, 1, 1, 1]
    assert found.main.interval == (1, 1) and "gap" not in found.figures
    assert (found.data["test_images"], found.data["queries_without_answers"]) == (10, 1)
    # right answers that differ, and one that looks like the query and is wrong
    write(pairs / "object0", "0-1", texture(7))
    write(pairs / "object5", "5-1", texture(0))
    assert search(pairs).figures["recall1"].value == pytest.approx(8 / 12)
    for folder in pairs.iterdir():
        for file in sorted(folder.iterdir())[1:]:
            file.unlink()
    with pytest.raises(UserError, match="no class has two images"):
        search(pairs)


def test_labelled_queries_some_of_which_show_nothing_known(pairs: Path, tmp_path: Path) -> None:
    queries = tmp_path / "queries"
    for place, name in [(0, "object0"), (1, "object1"), (8, "object2"), (9, "strange"), (10, "strange")]:
        write(queries / name, str(place), texture(place))
    found = search(pairs, query=str(queries))
    assert found.figures["recall1"].value == pytest.approx(2 / 3)  # over the queries that have an answer
    assert found.figures["accuracy"].value == pytest.approx(2 / 3)
    assert found.figures["gap"].value == pytest.approx(2 / 3)  # both right ones are the most confident
    assert (found.data["test_images"], found.data["queries_without_answers"]) == (3, 2)
    (queries / "object0").rename(queries / "other0")
    shutil.rmtree(queries / "object1")
    shutil.rmtree(queries / "object2")
    with pytest.raises(UserError, match="have no class in common"):
        search(pairs, query=str(queries))
