"""An audit finds what was planted, of every kind, and writes it down so that names of files are text."""

import csv
import re

import cv2
import numpy as np
import pytest

from dinolab.curation import audit, lists, whitening
from dinolab.features.store import Embeddings
from tests.curation.conftest import curate, picture

NAME = "<script>alert(1)</script>"  # of a folder: it holds a slash, and so two levels


def detailed(seed: int) -> np.ndarray:
    """A picture with fine detail, uint8 (64, 64, 3)."""
    noise = np.random.default_rng(seed).normal(0, 12, (64, 64, 3))
    return (picture(seed) + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture
def sources(tmp_path):
    """Two labelled sources. The first holds 12 images of class a and 12 of class b, and one of each kind of finding."""
    train, test = tmp_path / NAME, tmp_path / "test"
    for folder in (train / "a", train / "b", test / "a", test / "b"):
        folder.mkdir(parents=True)
    for seed in range(12):  # of each class, all images are alike
        for label, base in (("a", 100), ("b", 200)):
            mixed = cv2.addWeighted(picture(base), 0.55, detailed(seed + base), 0.45, 0)
            cv2.imwrite(str(train / label / f"{seed}.png"), mixed)
    mixed = cv2.addWeighted(picture(200), 0.55, detailed(55), 0.45, 0)
    cv2.imwrite(str(train / "a" / "wrong.png"), mixed)
    cv2.imwrite(str(train / "a" / "copy.jpg"), cv2.imread(str(train / "a" / "3.png")))
    cv2.imwrite(str(train / "a" / "blurred.png"), cv2.GaussianBlur(picture(100), None, 6))
    cv2.imwrite(str(train / "b" / "black.png"), np.zeros((64, 64, 3), np.uint8))
    cv2.imwrite(str(train / "b" / "tiny.png"), cv2.resize(detailed(1200), (30, 20)))
    (test / "a" / "leak.png").write_bytes((train / "b" / "7.png").read_bytes())
    cv2.imwrite(str(test / "b" / "clean.png"), detailed(999))
    return train, test


def test_everything_that_was_planted_is_found(sources, tmp_path, capsys):
    out = tmp_path / "set"
    for source in sources:
        assert curate("embed", out, f"data={source}") == 0
    before = {file for source in sources for file in source.rglob("*")}
    capsys.readouterr()
    how = ["threshold=0.97", "threshold_leak=0.99", "hash_bits=0", "blurred=0.2", "outlier=6", "shown=1"]
    assert curate("audit", out, *how) == 0
    printed = capsys.readouterr().out
    with (out / "audit" / "findings.csv").open() as file:
        rows = list(csv.DictReader(file))
    found: dict[str, list] = {}
    for row in rows:
        names = [row[name].rsplit("/", 1)[-1] for name in ("image", "other_image")]
        found.setdefault(row["finding"], []).append((*names, float(row["score"]), row["words"]))
    assert [set(one[:2]) for one in found["near-copy"]] == [{"copy.jpg", "3.png"}]
    assert [one[:2] for one in found["leak"]] == [("leak.png", "7.png")]
    assert found["leak"][0][3].startswith("same bytes; sources: ")
    assert found["leak"][0][3].endswith("; labels: a and b")
    assert [one[0] for one in found["blurred"]] == ["blurred.png"]
    assert [one[0::2][:2] for one in found["nearly-empty"]] == [("black.png", 0)]
    assert [(one[0], *one[2:]) for one in found["tiny"]] == [("tiny.png", 20, "30 x 20 pixels")]
    assert {"wrong.png", "leak.png"} <= {one[0] for one in found["doubtful-label"]}
    assert not {f"{seed}.png" for seed in range(12)} & {one[0] for one in found["doubtful-label"]}
    assert re.search(r"labelled a; of its 10 nearest images \d+ are labelled b", found["doubtful-label"][0][3])
    assert [one[0] for one in found["outlier"]] == ["black.png", "clean.png", "tiny.png"]
    assert re.search(r"1  leaks between sources\n +1  between .*script>/? and .*test", printed)
    page = (out / "audit" / "audit.html").read_text()
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert page.count('<figure class="card">') == len(found)  # one of each kind
    assert page.count('<img class="photo"') == len(found) + 2  # and two of a pair
    assert 'href="file:///' in page
    assert not re.search(r'(src|href)="(?!data:|file:///|#|findings\.csv)', page)
    assert {file for source in sources for file in source.rglob("*")} == before  # nothing is deleted


def test_an_audit_looks_at_what_the_stages_have_left_in(sources, tmp_path, capsys):
    out = tmp_path / "set"
    curate("embed", out, f"data={sources[0]}")
    curate("dedup", out, "threshold=0.97", "hash_bits=0")
    (sources[0] / "a" / "5.png").unlink()
    capsys.readouterr()
    assert curate("audit", out, "threshold=0.97", "hash_bits=0", "space=raw") == 0
    printed = capsys.readouterr().out
    assert "28 images audited" in printed  # of 29
    assert "0  leaks between sources" in printed


@pytest.mark.parametrize(
    ("left", "words", "message"),
    [
        (0, [], "none of the 29 images can be read"),
        (1, [], "the set has only one"),
        (29, ["shown=0"], "shown=0: out of range"),
    ],
)
def test_one_line_for_what_cannot_be_done(sources, tmp_path, capsys, left, words, message):
    out, source = tmp_path / "set", sources[0]
    files = sorted(file for file in source.rglob("*") if file.is_file())
    if left == 1:
        for file in files[1:]:
            file.unlink()
    curate("embed", out, f"data={source}")
    if left == 0:
        for file in files:
            file.unlink()
    capsys.readouterr()
    assert curate("audit", out, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_audit_reads_a_few_embeddings_at_a_time(sources, tmp_path, monkeypatch):
    out = tmp_path / "set"
    for source in sources:
        curate("embed", out, f"data={source}")
    how = ["threshold=0.9", "threshold_leak=0.9", "neighbours=3", "outlier=1"]
    monkeypatch.setattr(whitening, "SAMPLED", 8)
    assert curate("audit", out, *how) == 0
    whole = (out / "audit" / "findings.csv").read_text()
    most, usual = [0], Embeddings.__getitem__

    def read(self, wanted):
        found = usual(self, wanted)
        most[0] = max(most[0], len(found))
        return found

    monkeypatch.setattr(Embeddings, "__getitem__", read)
    for module, name, value in [(lists, "SORTED", 8), (lists, "SEARCHED", 8), (audit, "ROWS", 2)]:
        monkeypatch.setattr(module, name, value)
    assert curate("audit", out, *how) == 0
    assert (out / "audit" / "findings.csv").read_text() == whole
    assert len(whole.splitlines()) > 10
    assert most[0] == 8
    assert not list((out / "parts").glob("audit*"))
