"""Whether the training helped, in words; and what else a job's folder tells the page."""

import csv
import json
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.stats import binomtest

from dinolab.cli import parser
from dinolab.options import Config
from dinolab.recipes import load_config
from dinolab.report import learned, page, pictures, published, settings, tables, verdict
from dinolab.report import names as words
from dinolab.report.facts import Result, Run, read_run

DATA = {"train": "out/data/train.csv", "test": "out/data/test.csv", "split": "given", "train_images": 9}
OWN = {"method": "dinov2", "step": 10, "images": 40, "config": {
    "optim": {"batch_size": 16}, "highres": {"length": "0 steps"},
    "model": {"size": "tiny", "dim": 128, "depth": 4, "patch_size": 8},
}}  # fmt: skip
FRESH = {"untrained": "out", "seed": 0}
LINEAR, FINETUNE = (
    "linear heads, DINOv2's grid, on features without augmentation",
    "fine-tuning of all weights, as DeiT",
)


def result(folder: Path, name: str, info: dict, answers: str | None, protocol: str = LINEAR, **more) -> Result:
    """`answers` has a 1 for each image that was told right, a 0 for each that was not."""
    folder.mkdir(parents=True)
    right = [sign == "1" for sign in answers or "1111000000"]
    accuracy = sum(right) / len(right)
    content = {
        "encoder": {"name": name, "info": info},
        "protocol": {"name": protocol, **more},
        "data": DATA | {"test_images": len(right)},
        "accuracy": accuracy,
        "interval": [accuracy - 0.1, accuracy + 0.1],
    }
    if answers:
        rows = [[f"{n}.png", "a", "a" if yes else "b", "0.5"] for n, yes in enumerate(right)]
        with (folder / "predictions.csv").open("w") as file:
            csv.writer(file).writerows([["filename", "label", "predicted", "probability"], *rows])
    (folder / "result.json").write_text(json.dumps(content))
    return Result(folder, content)


@pytest.fixture
def job(tmp_path) -> Path:
    """A folder of `dinolab recipe` without its networks: 40 images were asked, of which this one tells 30 right."""
    folder = tmp_path / "out"
    own, fresh = "1" * 30 + "0" * 10, "1" * 15 + "0" * 25
    result(folder / "eval/all/out/linear", "out", OWN, own)
    result(folder / "eval/all/untrained/linear", "untrained", FRESH, fresh)
    result(folder / "eval/all/pixels/linear", "pixels", {}, "0" + "1" * 28 + "0" * 11)
    result(folder / "eval/finetuned", str(folder), OWN, own, FINETUNE, epochs=2)
    result(folder / "eval/supervised", "supervised", FRESH, "1" * 39 + "0", FINETUNE, epochs=4)
    (folder / "model.json").write_text(json.dumps({"info": OWN}))
    (folder / "recipe.json").write_text(json.dumps({"recipe": "har", "scale": "smoke", "options": ["optim.lr=0.1"]}))
    split = {
        "data": "my images", "split": "given, by Testing_labels.csv", "images_of_a_class": {"train": 45, "test": 1000},
        "train": {"images": 9, "fingerprint": "aa"}, "test": {"images": 40, "fingerprint": "bb"},
        "unlabelled_images": 5400, "differences": ["7,200 labelled images, 12,600 are known", "and so on"],
    }  # fmt: skip
    for name, content in {
        "data/split.json": split,
        "stages/evaluate.json": {"with": {"train": "2026", "official": "vits14.pth"}},
        "stages/video.json": {"with": {"train": "2026", "clip": ""}},
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    rows = [{"name": "out", "encoder": "out", "results": {"linear": {"accuracy": 0.75, "interval": [0.6, 0.9]}}}]
    summary = {
        "data": {"train": DATA["train"], "test": DATA["test"]},
        "settings": {"protocols": ["linear"], "seeds": 1},
        "encoders": rows,
    }
    (folder / "eval/all/all.json").write_text(json.dumps(summary))
    return folder


def test_the_verdict_is_in_words_and_of_the_files_figures(job):
    said = verdict.verdict(read_run(job))
    assert said.startswith(
        "Its linear accuracy is 75.0 % (95 % interval 65.0 to 85.0). Against the untrained network: more (+37.5 points"
    )
    assert ". Against raw pixels: no difference that these 40 test images could show (+5.0 points, −" in said
    assert ". Against the same network trained with labels, 4 epochs: less (−22.5 points, −" in said


def test_without_linear_figures_k_nn_speaks_and_without_others_nobody(tmp_path):
    knn = "weighted k-NN, as DINO"
    own = result(tmp_path / "a", "out", OWN, None, knn, k=20)
    run = Run(tmp_path, card={"info": OWN}, results=[own, result(tmp_path / "b", "pixels", {}, None, knn, k=10)])
    assert verdict.verdict(run) == ""  # of another k
    run.results.append(result(tmp_path / "c", "pixels", {}, None, knn, k=20))
    assert verdict.verdict(run).startswith("Its k-NN accuracy is 40.0 %")
    run.results[-1].content["data"]["test"] = "elsewhere"
    assert verdict.verdict(run) == ""


@pytest.mark.parametrize(
    ("only_mine", "only_theirs"), [(4, 0), (5, 0), (6, 0), (9, 2), (10, 2), (41, 59), (38, 62), (0, 0)]
)
def test_a_difference_is_told_where_the_exact_test_tells_it(tmp_path, only_mine, only_theirs):
    rest = 500 - only_mine - only_theirs
    own = result(tmp_path / "a", "a", {}, "1" * rest + "1" * only_mine + "0" * only_theirs)
    other = result(tmp_path / "b", "b", {}, "1" * rest + "0" * only_mine + "1" * only_theirs)
    more, low, high = verdict.difference(own, other, [])
    assert more == (only_mine - only_theirs) / 500 and low < more < high
    apart = only_mine + only_theirs
    exact = binomtest(only_mine, apart).pvalue if apart else 1.0
    assert (low > 0 or high < 0) == (exact < 0.05)


def test_without_the_answers_the_intervals_count_as_independent(tmp_path):
    own, other = (result(tmp_path / name, name, {}, None) for name in "ab")
    other.content["accuracy"], other.content["interval"] = 0.25, [0.2, 0.3]
    more, low, high = verdict.difference(own, other, [])
    assert more == pytest.approx(0.15)
    assert (more - low, high - more) == pytest.approx((np.hypot(0.1, 0.05), np.hypot(0.1, 0.05)))


def test_the_page_has_the_verdict_of_each_run(job):
    html = page.render([read_run(job), read_run(job)], True, job)
    assert html.count("Did the training without labels help?</b> Its linear accuracy is 75.0 %") == 2


def test_side_by_side_has_the_fine_tuned_networks_of_a_job(job):
    run = read_run(job)
    table = tables.comparison(run.comparisons[0].content, run)
    assert table.headings == ["encoder", "linear, %", "knn, %", "logreg, %", "finetune, %", "images/s"]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["out", "75.0 (60.0-90.0)", "", "", "75.0 (65.0-85.0)", ""],
        ["supervised", "", "", "", "97.5 (87.5-107.5)", ""],
    ]
    assert "supervised, finetune: the untrained network, all of it trained with labels, 4 epochs." in table.note
    for tuned in (r for r in run.results if r.kind == "finetune"):
        tuned.content["data"]["test"] = "elsewhere"
    elsewhere = tables.comparison(run.comparisons[0].content, run)
    assert [[cell.text for cell in row] for row in elsewhere.rows] == [["out", "75.0 (60.0-90.0)", "", "", "", ""]]


def test_a_job_is_done_again_by_one_command(job):
    recipe, report = settings.commands(read_run(job))
    assert report == f"dinolab report {job}"
    args = parser().parse_args(shlex.split(recipe)[1:])
    assert (args.name, args.options) == (
        "har",
        ["data=my images", f"out={job}", "scale=smoke", "official=vits14.pth", "optim.lr=0.1"],
    )


def test_pip_is_told_no_dinolab_of_an_index():
    packages = {"torch": "2.14.1+cu130", "dinolab": "0.1.0", "numpy": "2.4.6", "wandb": "not installed"}
    assert settings.install({"packages": packages}) == ("0.1.0", "pip install . torch==2.14.1 numpy==2.4.6")
    assert settings.install({}) == ("", "")


def test_a_job_tells_its_split(job):
    facts = page.trained_on(read_run(job), None)
    assert (
        facts["test images"] == "40"
        and facts["unlabelled images"] == "5,400"
        and facts["downloaded data"] == "my images"
    )
    assert facts["their checksum (names and labels, BLAKE2b)"] == "bb"
    assert facts["split (data/split.json)"] == (
        "given, by Testing_labels.csv; of each class at most 45 to learn from, 1,000 to be asked of"
    )
    assert facts["it differs from the known set"] == "7,200 labelled images, 12,600 are known; and so on"
    assert page.split_of({"split": "something else's"}) == {}


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
    assert learned.evenly([21, 39], 42) == [21]  # 39: what run.keep has left
    assert learned.evenly([*range(10, 100, 10), 95], 100) == [20, 40, 60, 80]
    assert learned.evenly([4, 8], 12) == [4, 8]
    assert learned.evenly([], 12) == learned.evenly([], None) == []


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
    assert words.about(Run(tmp_path, cfg)) == f"DINOv2, {name}, on some/images"
    assert words.about(Run(tmp_path)) == ""


def test_own_rows_of_published_tables_say_network_epochs_and_data(job):
    run = read_run(job)
    run.config = Config()
    small = published.published([run])[0]
    rows = [dict(zip(small.headings, (cell.text for cell in row))) for row in small.rows[: small.own]]
    assert [(r["method"], r["data"], r["network"], r["epochs"]) for r in rows] == [
        ("out (DINOv2)", "Human Action Recognition", "ViT-T/8, 4 blocks of 128", "4"),
        ("pixels", "Human Action Recognition", "", ""),
        ("untrained", "Human Action Recognition", "ViT-S/16", "0"),
    ]
    imagenet = published.published([run])[1]  # a table of one data set has no column for it
    assert imagenet.rows[0][0].text == "out (DINOv2), on Human Action Recognition"
    second = OWN | {"config": OWN["config"] | {"highres": {"length": "2 epochs"}}}
    assert words.epochs_of(Result(job, {"encoder": {"info": second}})) == ""  # steps of two sizes


def test_tiles_come_in_a_fixed_order(job, tmp_path):
    result(job / "eval/a", "out", OWN, None, "weighted k-NN, as DINO")
    result(job / "eval/b", "out", OWN, None, "retrieval")
    result(job / "eval/c", "out", OWN, None, "logistic regression")
    shown = page.view(read_run(job), "out", photos=True)
    assert [tile[0] for tile in shown.tiles] == ["linear", "k-NN", "logistic regression", "finetune", "retrieval"]


def test_long_names_break_after_an_underscore():
    assert page.breakable("using_<b>") == "using_<wbr>&lt;b&gt;"
