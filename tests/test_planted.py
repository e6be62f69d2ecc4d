"""benchmarks/planted_scores.py: what counts as a found copy, a wrong pair, a lost photograph and a found test photo."""

import sys
from pathlib import Path

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from planted_scores import Truth, draw_sheet, score_copies, score_leaks  # noqa: E402

from dinolab.curation.copies import NEAR  # noqa: E402
from dinolab.curation.leaks import NEAR as LEAK  # noqa: E402

ROWS = [  # file, what it is, of what, kind
    ("a", "photo", "a", ""), ("b", "photo", "b", ""), ("f1", "frame", "film", ""), ("f2", "frame", "film", ""),
    ("l", "leak", "t", "mirrored"), ("a1", "copy", "a", "mirrored"), ("a2", "copy", "a", "cropped"),
]  # fmt: skip


@pytest.fixture
def truth():
    return Truth([dict(zip(("file", "is", "of", "kind"), row)) for row in ROWS])


def decide(folder, **out):
    """Write decisions in another order than the truth's: `out` has the images that are out, with reason and image."""
    files = sorted((row[0] for row in ROWS), reverse=True)
    decided = [out.get(file, ("", "")) for file in files]
    columns = {
        "location": files,
        "kept": [file not in out for file in files],
        "reason": [reason for reason, _ in decided],
        "of": [of for _, of in decided],
        "similarity": np.full(len(files), 0.7, np.float32),
    }
    pq.write_table(pa.table(columns), folder / "decisions.parquet")


def test_copies_are_counted(truth, tmp_path):
    decide(tmp_path, a1=(NEAR, "a"), b=(NEAR, "a"), f2=(NEAR, "f1"))  # a2 is missed, b is no copy
    found = score_copies(tmp_path, truth)
    assert found["kinds"] == {"mirrored": {"found": 1, "of": 1}, "cropped": {"found": 0, "of": 1}}
    assert found["pairs"] == {"planted": 3, "planted_and_found": 1, "found_of_one_clip": 1, "found_others": 2}
    assert found["recall_of_pairs"] == found["precision_of_pairs"] == pytest.approx(1 / 3)
    assert (found["single_photographs"], found["single_photographs_in"]) == (
        2,
        1,
    )  # b, which is out, and the test photo
    assert (found["photographs"], found["photographs_lost"]) == (3, 1)
    assert (found["kept"], found["in"], found["frames_in"]) == (4, 4, 1)
    parts = score_copies(tmp_path, truth, halves=True)["halves"]  # ten photos in turn are in the same half
    assert [part["pairs"]["planted"] for part in parts] == [3, 0]


def test_leaks_are_counted(truth, tmp_path):
    decide(tmp_path, l=(LEAK, "t"), a2=(LEAK, "t"), f1=(LEAK, "t"))
    found = score_leaks(tmp_path, truth)
    assert found["kinds"] == {"mirrored": {"found": 1, "of": 1}}
    assert (found["photographs"], found["photographs_touched"]) == (2, 1)
    assert (found["images_taken"], found["images_taken_that_are_leaks"], found["frames_taken"]) == (3, 1, 1)
    decide(tmp_path)
    assert score_leaks(tmp_path, truth)["found"] == 0
    draw_sheet(tmp_path, truth, tmp_path / "sheet.jpg", leaks=True)  # nothing to show
    assert len((tmp_path / "sheet.csv").read_text().splitlines()) == 1
