"""Whether the training helped, in words; and what else a job's folder adds to the page."""

import csv
import json
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.stats import binomtest

from dinolab.evals import EVALS
from dinolab.evals.result import Measured, Result
from dinolab.options import Config
from dinolab.recipes import load_config
from dinolab.report import names as words
from dinolab.report import network_pictures, page, pictures, published, verdict
from dinolab.report.comparison import comparison_table
from dinolab.report.evaluated import Evaluated
from dinolab.report.run import Run, read_run
from dinolab.report.sections import again, data, glance

DATA = {"train": "out/data/train.csv", "test": "out/data/test.csv", "split": "given", "train_images": 9}
OWN = {"method": "dinov2", "step": 10, "images": 40, "config": {
    "optim": {"batch_size": 16}, "highres": {"length": "0 steps"},
    "model": {"size": "tiny", "dim": 128, "depth": 4, "patch_size": 8},
}}  # fmt: skip
FRESH = {"untrained": "out", "seed": 0}


def evaluated(
    folder: Path, name: str, info: dict, right: str | None, evaluation: str = "linear", **settings
) -> Evaluated:
    """`right` has a 1 for each image that was predicted right, and a 0 for each other; None: 4 of 10, without predictions."""
    folder.mkdir(parents=True)
    images = [sign == "1" for sign in right or "1111000000"]
    accuracy = sum(images) / len(images)
    figures = {"accuracy": Measured(accuracy, (accuracy - 0.1, accuracy + 0.1))}
    data = DATA | {"test_images": len(images)}
    result = Result(evaluation, {"name": name, "info": info}, data, settings, figures)
    if right:
        rows = [[f"{n}.png", "a", "a" if yes else "b", "0.5"] for n, yes in enumerate(images)]
        with (folder / "predictions.csv").open("w") as file:
            csv.writer(file).writerows([["filename", "label", "predicted", "probability"], *rows])
    (folder / "result.json").write_text(json.dumps(result.to_json()))
    return Evaluated(folder, result)


@pytest.fixture(autouse=True)
def titles(monkeypatch):
    for name, title in (
        ("linear", "linear"),
        ("knn", "k-NN"),
        ("logreg", "logistic regression"),
        ("finetune", "fine-tuning"),
    ):
        monkeypatch.setattr(type(EVALS[name]), "title", title)
    monkeypatch.setattr(type(EVALS["finetune"]), "trains_encoder", True, raising=False)


@pytest.fixture
def job(tmp_path) -> Path:
    """A job's folder without its networks: its own predicts 30 of 40 test images right."""
    folder = tmp_path / "out"
    own, fresh = "1" * 30 + "0" * 10, "1" * 15 + "0" * 25
    evaluated(folder / "eval/all/out/linear", "out", OWN, own)
    evaluated(folder / "eval/all/untrained/linear", "untrained", FRESH, fresh)
    evaluated(folder / "eval/all/pixels/linear", "pixels", {}, "0" + "1" * 28 + "0" * 11)
    evaluated(folder / "eval/finetuned", str(folder), OWN, own, "finetune", epochs=2)
    evaluated(folder / "eval/supervised", "supervised", FRESH, "1" * 39 + "0", "finetune", epochs=4)
    (folder / "model.json").write_text(json.dumps({"info": OWN}))
    settings = {"job": "har", "title": "Human Action Recognition", "scale": "smoke", "options": ["optim.lr=0.1"]}
    (folder / "job.json").write_text(json.dumps(settings))
    split = {
        "data": "my images", "split": "given, by Testing_labels.csv", "images_of_a_class": {"train": 45, "test": 1000},
        "train": {"images": 9, "fingerprint": "aa"}, "test": {"images": 40, "fingerprint": "bb"},
        "unlabelled_images": 5400, "differences": ["7,200 labelled images instead of 12,600", "and so on"],
    }  # fmt: skip
    for name, content in {
        "data/split.json": split,
        "stages/evaluate.json": {"with": {"train": "2026", "official": "vits14.pth"}},
        "stages/video.json": {"with": {"train": "2026", "clip": ""}},
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    found = {"linear": {"accuracy": 0.75, "interval": [0.6, 0.9], "protocol": {"name": "linear"}}}
    rows = [{"name": name, "encoder": name, "results": found} for name in ("out", "pixels")]
    summary = {
        "data": {"train": DATA["train"], "test": DATA["test"]},
        "settings": {"protocols": ["linear"], "seeds": 1},
        "encoders": rows,
    }
    (folder / "eval/all/all.json").write_text(json.dumps(summary))
    return folder


def test_the_verdict_is_in_words_and_of_the_files_figures(job):
    text = verdict.verdict(read_run(job))
    assert text.startswith(
        "Its accuracy by linear is 75.0% (95% interval 65.0 to 85.0). Against the untrained network: better (+37.5 points"
    )
    assert ". Against raw pixels: no clear difference on these 40 test images (+5.0 points, −" in text
    assert ". Against the same network trained with labels, 4 epochs: worse (−22.5 points, −" in text


def test_the_verdict_is_about_what_others_were_measured_by_too(tmp_path):
    own = evaluated(tmp_path / "a", "out", OWN, None, "knn", k=20)
    pixels = evaluated(tmp_path / "b", "pixels", {}, None, "knn", k=10)
    run = Run(tmp_path, card={"info": OWN}, results=[evaluated(tmp_path / "d", "out", OWN, None), own, pixels])
    assert verdict.verdict(run) == ""  # of another k
    run.results.append(evaluated(tmp_path / "c", "pixels", {}, None, "knn", k=20))
    assert verdict.verdict(run).startswith("Its accuracy by k-NN is 40.0%")
    run.results[-1].result.data["test"] = "elsewhere"
    assert verdict.verdict(run) == ""


@pytest.mark.parametrize(
    ("only_mine", "only_theirs"), [(4, 0), (5, 0), (6, 0), (9, 2), (10, 2), (41, 59), (38, 62), (0, 0)]
)
def test_a_difference_is_clear_where_the_exact_test_finds_it(tmp_path, only_mine, only_theirs):
    rest = 500 - only_mine - only_theirs
    own = evaluated(tmp_path / "a", "a", {}, "1" * rest + "1" * only_mine + "0" * only_theirs)
    other = evaluated(tmp_path / "b", "b", {}, "1" * rest + "0" * only_mine + "1" * only_theirs)
    more, low, high = verdict.differ(own, other, [])
    assert more == (only_mine - only_theirs) / 500 and low < more < high
    apart = only_mine + only_theirs
    exact = binomtest(only_mine, apart).pvalue if apart else 1.0
    assert (low > 0 or high < 0) == (exact < 0.05)


def test_without_predictions_the_intervals_count_as_independent(tmp_path):
    own, other = (evaluated(tmp_path / name, name, {}, None) for name in "ab")
    other.result.figures["accuracy"] = Measured(0.25, (0.2, 0.3))
    more, low, high = verdict.differ(own, other, [])
    assert more == pytest.approx(0.15)
    assert (more - low, high - more) == pytest.approx((np.hypot(0.1, 0.05), np.hypot(0.1, 0.05)))


def test_predictions_of_another_figure_are_not_counted(tmp_path):
    own, other = (evaluated(tmp_path / name, name, {}, right) for name, right in (("a", "1100"), ("b", "1000")))
    assert verdict.differ(own, other, []).value == 0.25
    own.result.figures["accuracy"] = Measured(0.9, (0.8, 1.0))  # not the share of right predictions
    assert verdict.differ(own, other, []).value == pytest.approx(0.65)


def test_the_page_has_the_verdict_of_each_run(job):
    html = page.render([read_run(job), read_run(job)], True, job)
    assert html.count("Did the training without labels help?</b> Its accuracy by linear is 75.0%") == 2


def test_side_by_side_has_the_results_that_were_made_apart(job):
    run = read_run(job)
    comparison = run.comparisons[0].comparison
    table = comparison_table(comparison, run)
    assert table.headings == ["encoder", "linear, %", "fine-tuning, %", "images/s"]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["this run", "75.0 (60.0-90.0)", "75.0 (65.0-85.0)", ""],
        ["pixels", "75.0 (60.0-90.0)", "", ""],
        ["untrained", "37.5 (27.5-47.5)", "", ""],
        ["supervised", "", "97.5 (87.5-107.5)", ""],
    ]
    assert table.rows[3][2].value == 97.5 and "supervised 4" in table.note
    for tuned in (r for r in run.results if r.result.evaluation == "finetune"):
        tuned.result.data["test"] = "elsewhere"
    elsewhere = comparison_table(comparison, run)
    assert elsewhere.headings == ["encoder", "linear, %", "images/s"] and len(elsewhere.rows) == 3


def test_a_job_is_repeated_by_one_command(job):
    command, report = again.commands(read_run(job))
    assert report == f"dinolab report {job}"
    assert shlex.split(command) == [
        "dinolab", "job", "har", "data=my images", f"out={job}", "scale=smoke", "official=vits14.pth", "optim.lr=0.1"
    ]  # fmt: skip


def test_a_job_of_an_earlier_version_is_one_too(job):
    (job / "job.json").unlink()
    (job / "recipe.json").write_text(json.dumps({"recipe": "har", "scale": "small", "options": []}))
    command, _ = again.commands(read_run(job))
    assert shlex.split(command) == [
        "dinolab", "job", "har", "data=my images", f"out={job}", "scale=small", "official=vits14.pth"
    ]  # fmt: skip
    assert words.data(read_run(job), "somewhere/data/train.csv") == "Human Action Recognition"


def test_the_pip_command_installs_dinolab_from_its_checkout():
    packages = {"torch": "2.14.1+cu130", "dinolab": "0.1.0", "numpy": "2.4.6", "wandb": "not installed"}
    assert again.install({"packages": packages}) == ("0.1.0", "pip install . torch==2.14.1 numpy==2.4.6")
    assert again.install({}) == ("", "")


def test_the_split_of_a_job_is_shown(job):
    facts = data.trained_on(read_run(job), None)
    assert (
        facts["test images"] == "40"
        and facts["unlabelled images"] == "5,400"
        and facts["downloaded data"] == "my images"
    )
    assert facts["their checksum (names and labels, BLAKE2b)"] == "bb"
    assert facts["split (data/split.json)"] == (
        "given, by Testing_labels.csv; at most 45 train images and 1,000 test images of each class"
    )
    assert facts["differences from the published data"] == "7,200 labelled images instead of 12,600; and so on"
    assert data.split_of({"split": "something else's"}) == {}


def test_a_video_says_its_length_and_size(tmp_path):
    file = tmp_path / "video.mp4"
    video = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 64))
    for _ in range(30):
        video.write(np.zeros((64, 64, 3), np.uint8))
    video.release()
    assert pictures.length_and_size(file) == f"3 s, {file.stat().st_size / 1e6:.1f} MB"
    file.write_bytes(b"damaged" * 100_000)
    assert pictures.length_and_size(file) == "0.7 MB"


def test_steps_are_evenly_spaced_and_not_the_end_again():
    assert network_pictures.evenly([21, 39], 42) == [21]  # 39: what run.keep has left
    assert network_pictures.evenly([*range(10, 100, 10), 95], 100) == [20, 40, 60, 80]
    assert network_pictures.evenly([4, 8], 12) == [4, 8]
    assert network_pictures.evenly([], 12) == network_pictures.evenly([], None) == []


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["model.size=small", "model.patch_size=8"], "ViT-S/8"),
        (["model.size=tiny", "model.dim=128", "model.depth=4", "model.patch_size=8"], "ViT-T/8, 4 blocks of 128"),
        (["model.size=giant", "model.patch_size=16"], "ViT-g/16"),
        (["model.size=resnet50", "loss.ibot=0"], "ResNet-50"),
    ],
)
def test_networks_have_their_usual_names(tmp_path, options, name):
    cfg = load_config(None, [*options, "data.path=/somewhere/some/images"])
    assert words.about(Run(tmp_path, cfg)) == f"{words.method(cfg)}, {name}, on some/images"
    assert words.about(Run(tmp_path)) == ""


def test_own_rows_of_published_tables_say_network_epochs_and_data(job):
    run = read_run(job)
    run.config = Config()
    small = published.published([run])[0]
    rows = [dict(zip(small.headings, (cell.text for cell in row))) for row in small.rows[: small.own]]
    assert [(r["method"], r["data"], r["network"], r["epochs"]) for r in rows] == [
        (f"out ({words.method(Config())})", "Human Action Recognition", "ViT-T/8, 4 blocks of 128", "4"),
        ("pixels", "Human Action Recognition", "", ""),
        ("untrained", "Human Action Recognition", "ViT-S/16", "0"),
    ]
    imagenet = published.published([run])[1]  # a table of one data set has no column for it
    assert imagenet.rows[0][0].text == f"out ({words.method(Config())}), on Human Action Recognition"
    second = OWN | {"config": OWN["config"] | {"highres": {"length": "2 epochs"}}}
    assert words.epochs_of(Evaluated(job, Result("knn", {"info": second}, {}, {}, {}))) == ""  # steps of two sizes


def test_tiles_come_in_the_order_of_the_evaluations(job):
    for folder, name in (("a", "knn"), ("b", "telepathy"), ("c", "logreg")):
        evaluated(job / "eval" / folder, "out", OWN, None, name)
    shown = [tile[0] for tile in glance.tiles(read_run(job))]
    assert shown == [
        *(EVALS[name].title for name in EVALS if name in ("linear", "knn", "logreg", "finetune")),
        "telepathy",
    ]


def test_long_names_break_after_an_underscore():
    assert page.breakable("using_<b>") == "using_<wbr>&lt;b&gt;"
