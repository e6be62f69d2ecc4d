"""The rules of a job that goes several ways: division of the time, recommendation, parts of the labels, and its images."""

import csv
import tarfile
from pathlib import Path

import numpy as np
import pytest

from dinolab.errors import UserError
from dinolab.evals.result import Measured
from dinolab.evals.scores import bootstrap_interval
from dinolab.jobs import ways
from dinolab.jobs.advice import labels_needed, recommend
from dinolab.jobs.budget import Pace, divide, epochs_in, fit
from dinolab.jobs.curves import parts_of
from dinolab.jobs.figures import WayFigures, difference
from dinolab.jobs.own_images import prepare
from dinolab.plan.text import parse_time
from tests.jobs.conftest import read_sheet
from tests.pictures import make_folder

IMAGES = 1000


@pytest.mark.parametrize(
    ("text", "seconds"), [("20min", 1200), ("1h", 3600), ("1.5h", 5400), ("1h30min", 5400), ("2 days", 172800)]
)
def test_a_time_on_the_clock(text, seconds):
    assert parse_time(text, "budget") == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "1x", "5s", "1h x", "-1h", "1 epochs", "9" * 90 + "h"])
def test_what_is_no_time(text):
    with pytest.raises(UserError, match=r"budget=.*write 20min, 1h"):
        parse_time(text, "budget")


def test_lengths_are_rounded_down():
    assert epochs_in(100, Pace(7, 2)) == 14 == (100 - 2) // 7
    assert epochs_in(30, Pace(7, 2)) == 4.0
    assert epochs_in(20, Pace(7, 2)) == 2.5  # 2.57
    assert epochs_in(1, Pace(7, 2)) == 0


def test_the_time_is_divided_by_shares_and_what_is_left_out_leaves_its_share():
    shares = {"a": 0.5, "b": 0.25, "c": 0.25}
    assert divide(100, shares) == {"a": 50, "b": 25, "c": 25}
    evaluations = dict.fromkeys(shares, 5.0)
    parts, left_out = fit(100, shares, dict.fromkeys(shares, Pace(10, 2)), evaluations)
    assert parts == {"a": 45, "b": 20, "c": 20} and not left_out
    parts, left_out = fit(100, shares, {"a": Pace(10), "b": Pace(40), "c": Pace(10)}, evaluations)
    assert parts == pytest.approx({"a": 200 / 3 - 5, "c": 100 / 3 - 5})
    assert left_out == {"b": "its part of the time is 25 s, and an epoch with its evaluation takes 45 s"}
    parts, left_out = fit(100, shares, {"a": Pace(10)}, evaluations)  # the pace of the others is known later
    assert parts == {"a": 45, "b": 20, "c": 20}
    parts, left_out = fit(10, shares, dict.fromkeys(shares, Pace(10)), evaluations)
    assert not parts and left_out.keys() == shares.keys()


def way(name, accuracy, images_per_s=100.0, cpu_hours=1.0, right=None) -> WayFigures:
    """Planted figures; the images that it predicts right are the first ones, or those in `right`."""
    count = round(IMAGES * accuracy)
    chosen = range(count) if right is None else right
    interval = bootstrap_interval(count, IMAGES)
    found = WayFigures(
        name, f"the {name}", "net", "logreg", Measured(accuracy, interval), None, 1, cpu_hours, 1, images_per_s, Path()
    )
    found.right = {str(n): n in chosen for n in range(IMAGES)}
    return found


def advise(*rows, curves=None):
    taken, sentences = recommend(rows, curves or {}, difference)
    return taken.name, sentences


def test_the_best_way_is_taken_where_a_difference_can_be_shown():
    name, sentences = advise(way("frozen", 0.5), way("distilled", 0.61, 300), way("scratch", 0.24, 900))
    assert name == "distilled"
    assert sentences[0] == (
        "Take distilled (the distilled): 61.0 % (58.0 to 64.0), 3.0 times the images per second of frozen."
    )
    assert sentences[1].startswith("frozen (the frozen) gave 50.0 % (46.9 to 53.1), 11.0 points less than distilled (")
    assert sentences[2].startswith("scratch (the scratch) gave 24.0 %") and sentences[2].endswith(").")


def test_of_ways_that_cannot_be_told_apart_the_cheaper_one_is_taken():
    others = range(6, 616)  # as many images as the first of 61 %, and nearly the same
    name, sentences = advise(way("frozen", 0.61, 100), way("distilled", 0.61, 300, right=others))
    assert name == "distilled"
    assert sentences[1].startswith(
        "No difference can be shown between the most accurate way, frozen (61.0 % (58.0 to 64.0)), and dis"
    )
    assert sentences[1].endswith("distilled takes less time for an image.")
    name, sentences = advise(way("frozen", 0.61, 100, 2.0), way("distilled", 0.61, 110, 0.5, right=others))
    assert name == "distilled" and sentences[1].endswith("distilled took less processor time to make.")
    assert sentences[0].endswith("for about the time per image of frozen.")


def test_the_first_way_may_be_the_best():
    name, sentences = advise(way("frozen", 0.61, 100), way("distilled", 0.5, 300))
    assert name == "frozen" and sentences[0] == "Take frozen (the frozen): 61.0 % (58.0 to 64.0)."


def test_an_extrapolation_follows_from_the_curve_and_is_called_one():
    rising = [{"labels": n, "accuracy": a} for n, a in ((100, 0.1), (1000, 0.2))]  # 10 points for ten times the labels
    assert labels_needed(rising, 0.4) == pytest.approx(100)
    assert labels_needed(rising, 0.2) is None
    assert labels_needed(rising[::-1], 0.1) is None  # not above what it has
    assert labels_needed([{"labels": n, "accuracy": 0.2} for n in (100, 1000)], 0.4) is None
    assert labels_needed(rising[:1], 0.4) is None
    _, sentences = advise(way("frozen", 0.4), way("scratch", 0.2), curves={"scratch": rising})
    assert sentences[1].endswith(
        "extrapolated from its learning curve, it would need about 100 times the labels or more."
    )
    _, sentences = advise(way("frozen", 0.9), way("scratch", 0.2), curves={"scratch": rising})
    assert "more than 1,000 times the labels would not close that gap" in sentences[1]


def test_parts_of_the_labels_lie_within_each_other_and_have_every_class():
    labels = np.array([0] * 40 + [1] * 20 + [2] * 3)
    few, more, everything = (set(part.tolist()) for part in parts_of(labels))
    assert few < more < everything == set(range(63))
    assert [int((labels[sorted(few)] == label).sum()) for label in range(3)] == [4, 2, 1]
    assert [int((labels[sorted(more)] == label).sum()) for label in range(3)] == [12, 6, 1]


def test_ways_that_cannot_be_gone_are_left_out_with_the_way_to_get_them(monkeypatch):
    monkeypatch.setattr(ways, "has_starter", lambda: False)
    going, left_out = ways.choose([])
    assert going == ["untrained", "scratch", "supervised", "finetuned"]
    assert left_out.keys() == {name for name, one in ways.WAYS.items() if one.starter}
    assert all("pip install 'dinolab[starter]'" in why for why in left_out.values())
    monkeypatch.setattr(ways, "has_starter", lambda: True)
    assert ways.choose([])[0] == [name for name in ways.WAYS if name != "untrained"]
    assert ways.choose(["scratch", "frozen"]) == (["frozen", "scratch"], {})
    with pytest.raises(UserError, match=r"ways=scrach: 'scrach' is not one of untrained, frozen"):
        ways.choose(["scrach"])


def test_shares_and_recipes():
    from dinolab.recipes import load_config

    assert sum(one.share for one in ways.WAYS.values()) == pytest.approx(1)
    for name, one in ways.WAYS.items():
        for images in (100, 5_000, 100_000) if one.recipe and not one.starter else []:
            assert load_config(ways.recipe_for(one, images), [*one.words, "data.path=x"]), name


def sheet(file: Path, rows) -> str:
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([("filename", "label"), *rows])
    return str(file)


def counts(split):
    facts = split.facts
    return facts["train"]["images"], facts["test"]["images"], facts["unlabelled_images"]


def test_half_labelled_images_of_each_form(tmp_path):
    folder = make_folder(tmp_path / "photos", 15)
    split = prepare(str(folder), tmp_path / "a", "", "")
    assert counts(split) == (24, 6, 0) and split.pretrain == split.train
    test = read_sheet(split.test)

    (folder / "unlabelled").mkdir()
    for n in range(4):
        (folder / "class0" / f"{n:03d}.png").rename(folder / "unlabelled" / f"{n}.png")
    (folder / "class1" / "000.png").rename(folder / "stray.png")
    split = prepare(str(folder), tmp_path / "b", "", "")
    assert counts(split) == (20, 5, 5) and len(read_sheet(split.pretrain)) == 25
    assert not {row["filename"] for row in read_sheet(split.pretrain)} & {
        row["filename"] for row in read_sheet(split.test)
    }
    assert {Path(row["filename"]).name for row in read_sheet(split.unlabelled)} == {
        "0.png",
        "1.png",
        "2.png",
        "3.png",
        "stray.png",
    }

    more = make_folder(tmp_path / "more", 3, 1)
    rows = [
        (path.relative_to(tmp_path), "" if n < 5 else path.parent.name)
        for n, path in enumerate(sorted(folder.glob("class*/*")))
    ]
    file = sheet(tmp_path / "all.csv", rows)
    split = prepare(file, tmp_path / "c", "", str(more))
    assert counts(split) == (16, 4, 8)
    split = prepare(
        file,
        tmp_path / "d",
        str(
            sheet(tmp_path / "test.csv", [(row["filename"], row["label"]) for row in test if "class1" in row["label"]])
        ),
        "",
    )
    assert counts(split)[0] == 20 and split.facts["split"] == "given, by test="


def test_images_of_shards_become_files(tmp_path):
    folder = make_folder(tmp_path / "photos", 12)
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        for n, path in enumerate(sorted(folder.rglob("*.png"))):
            (tmp_path / "label.cls").write_text(str(n % 2))
            packed.add(path, f"{n:04d}.png")
            packed.add(tmp_path / "label.cls", f"{n:04d}.cls")
    split = prepare(str(tmp_path / "a.tar"), tmp_path / "out", "", "")
    files = [Path(row["filename"]) for side in (split.train, split.test) for row in read_sheet(side)]
    assert len(set(files)) == 24 and {file.read_bytes() for file in files} == {
        p.read_bytes() for p in folder.rglob("*.png")
    }
    assert prepare(str(tmp_path / "a.tar"), tmp_path / "out", "", "").facts == split.facts


def test_images_that_no_job_can_use(tmp_path):
    def message(data, test=""):
        with pytest.raises(UserError) as caught:
            prepare(str(data), tmp_path / "out", test, "")
        return str(caught.value)

    few = make_folder(tmp_path / "few", 5)
    one = sheet(tmp_path / "one.csv", [(f"few/class0/{n:03d}.png", "cat") for n in range(5)] * 5)
    none = sheet(tmp_path / "none.csv", [(f"few/class0/{n:03d}.png", "") for n in range(5)])
    assert message(few) == f"{few}: 10 labelled images; a job needs 20 or more"
    assert message(one) == f"{one}: all labels are 'cat'; two classes are needed"
    assert f"dinolab train data.path={none}" in message(none)
    assert "no images" in message(tmp_path / "nowhere") or "nowhere" in message(tmp_path / "nowhere")
    enough, other = make_folder(tmp_path / "enough", 12), make_folder(tmp_path / "other" / "x", 3)
    (other / "class0").rename(other / "dog")
    (other / "class1").rename(other / "owl")
    assert message(enough, str(other)) == f"test={other}: none of the classes of the training images, but dog; owl"
