"""A person's decisions stand above those of the other stages, and an audit says when its set has changed."""

import csv
import hashlib
import json
import re

import pytest

from dinolab.curation.decisions import lineage
from dinolab.data.sources import open_source
from tests.curation.conftest import curate
from tests.curation.test_curate import contents, decisions, names_in


@pytest.fixture
def out(heap, tmp_path):
    """The heap without its copies."""
    curate("embed", tmp_path / "set", f"data={heap}")
    curate("dedup", tmp_path / "set")
    return tmp_path / "set"


def test_decisions_leave_out_keep_and_bring_back(out, heap, capsys):
    before = names_in(out)
    number = list(decisions(out)).index("12.png")  # a row of decisions.csv
    lines = ["image,decision,kind,other", "09.png,drop,near-copy,10.png", f"{heap}/03_cropped.png,Keep", "11.png,"]
    (out / "review.csv").write_text("\n".join([*lines, "heap/13.png, keep", f"{number},drop"]))
    capsys.readouterr()
    assert curate("review", out) == 0
    assert "decisions about 4: 2 of 25 are left out, and 1 brought back" in capsys.readouterr().out
    assert names_in(out) == before - {"09.png", "12.png"} | {"03_cropped.png"}
    found = decisions(out)
    assert found["09.png"]["reason"] == "left out by a person (near-copy) beside"
    assert found["09.png"]["of"] == f"{heap}/10.png"
    assert [found[name]["stage"] for name in ("03_cropped.png", "13.png", "11.png", "00_same.png")] == [
        *("review", "review", "", "dedup"),
    ]
    last = lineage(open_source(str(out)))[-1]
    assert last["figures"]["sha256"] == hashlib.sha256((out / "review.csv").read_bytes()).hexdigest()
    assert last["parent"] == hashlib.sha256((out / "dedup.json").read_bytes()).hexdigest()
    assert curate("explain", out, "03_cropped.png") == 0
    shown = capsys.readouterr().out
    assert "03_cropped.png: in\n" in shown
    assert re.search(r"dedup: out: near-copy of .*\nreview: kept by a person\n", shown)
    curate("dedup", out)
    assert names_in(out) == before
    assert not (out / "review.json").exists() and (out / "review.csv").exists()


def test_findings_with_decisions_are_taken(out, heap, capsys, caplog):
    curate("embed", out, f"data={heap}")
    curate("audit", out, "tiny=65")
    manifest = json.loads((out / "audit" / "audit.json").read_text())
    assert manifest["parent"] == hashlib.sha256((out / "dedup.json").read_bytes()).hexdigest()
    assert manifest["options"]["tiny"] == 65 and manifest["figures"]["images"] == 25
    assert manifest["figures"]["found"]["tiny"] == 25
    findings = out / "audit" / "findings.csv"
    with findings.open() as file:
        rows = [row | {"decision": "drop" if row["image"].endswith("07.png") else ""} for row in csv.DictReader(file)]
    with findings.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=";")  # as some spreadsheets save it
        writer.writeheader()
        writer.writerows(rows)
    capsys.readouterr()
    assert curate("explain", out, "07.png") == 0
    assert "this audit is" not in capsys.readouterr().out
    assert curate("review", out, f"decisions={findings}") == 0
    assert "this audit is of the set as it was before (review came after it)" in capsys.readouterr().out
    assert decisions(out)["07.png"]["reason"] == "left out by a person (tiny)"
    decided = findings.read_bytes()
    assert curate("audit", out, "tiny=65") == 0
    assert json.loads((out / "audit" / "audit.json").read_text())["figures"]["found"]["tiny"] == 24
    assert (out / "audit" / "decided-1.csv").read_bytes() == decided and "decided-1.csv" in caplog.text
    (heap / "08.png").unlink()
    capsys.readouterr()
    curate("embed", out, f"data={heap}")
    assert "as it was before (images or stages have changed)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "review.csv: no such file"),
        ("image,verdict\n01.png,keep", "no column 'decision', only: image, verdict"),
        ("", "no column 'image', only: none at all"),
        ("image,decision\n01.png,perhaps", "line 2: decision 'perhaps'; write keep or drop"),
        ("image,decision\nnothing.png,keep", "line 2: nothing.png: no image of the set is called so"),
        ("image,decision\n99,keep", "line 2: 99: no image"),
        ("image\rdecision\n01.png,keep", "review.csv"),
        ("image,decision\n01.png,keep\nheap/01.png,drop", "line 3: heap/01.png has another decision in"),
        ("image,decision\nbroken.jpg,keep", "line 2: broken.jpg cannot be read"),
        (
            "image,decision\n" + "".join(f"{row},drop\n" for row in range(30)),
            "review would leave no image in, and has changed nothing; let its file keep some",
        ),
    ],
)
def test_one_line_for_what_cannot_be_done(out, capsys, text, message):
    if text is not None:
        (out / "review.csv").write_text(text)
    before = contents(out)
    capsys.readouterr()
    assert curate("review", out) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert contents(out) == before
