"""Edited and damaged files of a run: resuming, evaluating, exporting and reporting end well or in one line, never in a traceback."""

import json
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import dinolab
from dinolab.cli import main
from dinolab.errors import UserError
from dinolab.evals.results import write_result
from dinolab.rundir import RunFolder, read_metrics
from dinolab.schemas import read_object
from tests.pictures import make_folder


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(Path(__file__).parent / "fixtures" / "earlier.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    earlier = folder / "earlier"
    words = [f"train={earlier / 'images'}", f"out={earlier / 'dino' / 'eval' / 'knn'}", "size=16", "k=3"]
    assert main(["eval", "knn", str(earlier / "dino"), *words]) == 0
    return earlier


@pytest.fixture
def run(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    copy = shutil.copytree(unpacked, tmp_path / "earlier")
    monkeypatch.chdir(copy)
    return RunFolder(copy / "dino")


def put(file: Path, keys: tuple[str | int, ...], value: Any) -> None:
    content = json.loads(file.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    file.write_text(json.dumps(content))


def add_job(run: RunFolder) -> None:
    """The files by which the run is a job's, with nothing wrong in them."""
    side = {"images": 9, "fingerprint": "a"}
    row = {"model": "small/16", "pass": "forward", "backend": "math", "tokens": 197, "batch": 1}
    facts = {
        "data": "copy",
        "split": "given",
        "train": side,
        "test": side,
        "classes": ["a"],
        "unlabelled_images": 0,
        "differences": [],
    }
    speed = {"images_per_s": 9, "batch_size": 1, "precision": "fp32", "device": "CPU"}
    encoders = [{"name": "a", "encoder": "a", "results": {}, "size": [16, 16], "throughput": speed}]
    settings = {"evaluations": ["knn"], "seeds": 1}
    files = {
        "eval/all/all.json": {
            "version": 2,
            "data": {"train": "a", "test": None},
            "settings": settings,
            "encoders": encoders,
        },
        "job.json": {"job": "har", "title": "Actions", "scale": "smoke", "options": []},
        "data/split.json": facts | {"images_of_a_class": {"train": 5, "test": 4}},
        "stages/train.json": {"finished": "2026-01-31", "seconds": 3.5, "with": {"clip": ""}},
        "speed/attention.json": {
            "benchmark": "attention",
            "title": "Attention",
            "rows": [row | {"ms": 2.5, "ms_quartiles": [2, 3], "note": "a"}],
        },
    }
    for name, content in files.items():
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).write_text(json.dumps(content))


CARDS = [
    (("model", "depth"), 10_000_000), (("model", "depth"), -1), (("model", "depth"), None), (("model", "heads"), 3.5),
    (("model", "dim"), 10**30), (("model", "size"), "huge"), (("model", "patch_size"), 0), (("model", "surprise"), 1),
    (("model",), None), (("model",), []), (("image_size",), -16), (("image_size",), "16"), (("image_size",), 10**9),
    (("image_size",), 15), (("info",), []), (("info", "step"), "many"), (("info", "config"), 1), (("pixels",), {"mean": 1}),
    (("pixels",), {"channels": 3, "mean": ["a", 1, 1]}), (("pixels",), {"deviation": [0, 0, 0]}), (("format",), 7),
    (("pixels",), {"mean": [10**400, 1, 1]}),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "value"), CARDS)
def test_a_wrong_model_card_is_named(keys: tuple[str, ...], value: Any, run: RunFolder) -> None:
    put(run.card, keys, value)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"model\.json|model\.safetensors"):
        dinolab.load(run.path)
    assert time.monotonic() - began < 2
    assert main(["export", "dino", "to=safetensors", "out=exported"]) == 2
    assert main(["eval", "knn", "dino", "train=images", "size=16"]) == 2


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "7", '"x"', "\xff", "[" * 100_000, '{"images": -1}', '{"images": "x"}']
)
def test_files_that_are_no_json_objects_are_named(content: str, run: RunFolder) -> None:
    for file in (run.card, run.environment, run.evaluations / "knn" / "result.json", run.metrics):
        before = file.read_bytes()
        file.write_text(content, encoding="latin-1")
        assert main(["report", "dino", "photos=false"]) == 0
        assert main(["train", "dino", "resume=true", "optim.length=6 steps"]) == 2
        file.write_bytes(before)
    (run.path / "config.yaml").write_text(content, encoding="latin-1")
    assert main(["report", "dino", "photos=false"]) == 0
    assert main(["train", "dino", "resume=true"]) == 2


@pytest.mark.parametrize(
    ("name", "keys", "value"),
    [
        ("environment.json", ("packages",), {"numpy": 1}),
        ("environment.json", ("images",), "many"),
        ("eval/knn/result.json", ("figures",), {"accuracy": {"value": "high"}}),
        ("eval/knn/result.json", ("figures",), {"accuracy": {"value": 0.5, "interval": [0.1]}}),
        ("eval/knn/result.json", ("per_class",), {"a": {"accuracy": "x", "images": 1}}),
        ("eval/knn/result.json", ("data", "test_images"), "x"),
        ("eval/knn/result.json", ("encoder", "info"), {"step": "x", "config": {"model": 3}}),
        ("eval/knn/result.json", ("settings",), 5),
        ("eval/knn/result.json", ("seed",), [1]),
        ("eval/knn/result.json", ("seeds",), {"seed": [0, 1], "mean": 0.5}),
        ("eval/all/all.json", ("settings",), {"seeds": 1}),
        ("eval/all/all.json", ("encoders", 0, "throughput"), {"images_per_s": 9}),
        ("eval/all/all.json", ("encoders", 0, "size"), [None]),
        ("job.json", ("options",), [True]),
        ("data/split.json", ("test", "images"), "9"),
        ("data/split.json", ("images_of_a_class",), {"train": None}),
        ("data/split.json", ("differences",), [1]),
        ("stages/train.json", ("seconds",), float("nan")),
        ("stages/train.json", ("with",), {"clip": {}}),
        ("speed/attention.json", ("rows", 0, "model"), []),
        ("speed/attention.json", ("rows", 0, "batch"), "many"),
        ("speed/attention.json", ("rows", 0, "ms"), float("inf")),
        ("speed/attention.json", ("rows",), {}),
        ("speed/attention.json", ("title",), 7),
    ],
)
def test_a_report_leaves_out_what_is_wrong_and_names_it(
    name: str, keys: tuple[str | int, ...], value: Any, run: RunFolder
) -> None:
    add_job(run)
    put(run.path / name, keys, value)
    assert main(["report", "dino", "photos=false"]) == 0
    html = run.report.read_text()
    assert html.count(": left out") == 1
    assert f"{Path(name).parent.name or 'dino'}/{Path(name).name}: left out" in html
    assert "Data" in html and "is left out: a file holds" not in html


def test_lines_of_figures_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    lines = [
        '{"step": 1, "loss": 2}',
        '{"step": "2"}',
        '{"step": NaN}',
        f'{{"step": {"9" * 400}}}',
        '{"step": 3, "loss": []}',
        "[[",
        "3",
        '{"step": 4}',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    rows, problems = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 4] and len(problems) == 6


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "model.json")
    with pytest.raises(UserError, match="not a regular file"):
        read_object(tmp_path / "model.json")


def vit_tensors() -> dict[str, torch.Tensor]:
    from dinolab.models.vit import ViT
    from dinolab.options import Model

    return dict(ViT(Model(dim=64, depth=1, heads=1, patch_size=8), 16).state_dict())


ODD_TENSORS = [
    {"blocks.99999999.norm1.weight": torch.zeros(1)}, {"blocks.x.norm1.weight": torch.zeros(1)}, {"blocks.-1.a": torch.zeros(1)},
    {"blocks." + "9" * 5000 + ".a": torch.zeros(1)}, {"pos_embed": torch.zeros(5)}, {"pos_embed": torch.zeros(())},
    {"patch_embed.proj.weight": torch.zeros(64, 3)}, {"patch_embed.proj.weight": torch.zeros(0, 3, 8, 8)},
    {"patch_embed.proj.weight": torch.zeros(64, 3, 0, 0)}, {"cls_token": torch.zeros(1, 1, 64, dtype=torch.int64)},
    {"cls_token": torch.zeros(1, 1, 64, dtype=torch.complex64)}, {"register_tokens": torch.zeros(3)},
    {"cls_token": torch.zeros(1, 1, 64).to_sparse()},
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD_TENSORS)
def test_odd_tensors_are_named(odd: dict[str, torch.Tensor], tmp_path: Path) -> None:
    file, began = tmp_path / "odd.pth", time.monotonic()
    torch.save({**vit_tensors(), **odd, 5: torch.zeros(1)}, file)
    with pytest.raises(UserError, match=r"odd\.pth"):
        dinolab.load(file)
    assert time.monotonic() - began < 2


def test_integers_in_a_runs_weights_are_named(run: RunFolder) -> None:
    tensors = load_file(run.weights)
    save_file(tensors | {"cls_token": tensors["cls_token"].long()}, run.weights)
    with pytest.raises(UserError, match="cls_token holds int64, should hold float32"):
        dinolab.load(run.path)


def test_damaged_listings_are_made_anew(tmp_path: Path) -> None:
    import gzip

    from dinolab.data.sources import open_source

    data, cache = make_folder(tmp_path / "images"), tmp_path / "listing.json.gz"
    whole = open_source(str(data), cache=cache)
    kept = json.loads(gzip.decompress(cache.read_bytes()))
    for field, value in (
        ("names", [1]),
        ("names", None),
        ("names", ["\ud800.png"]),
        ("labels", ["a"]),
        ("root", 5),
        ("folders", []),
        ("unlabelled", 3),
    ):
        damaged = kept | {"listing": kept["listing"] | {field: value}}
        cache.write_bytes(gzip.compress(json.dumps(damaged).encode()))
        assert open_source(str(data), cache=cache).paths == whole.paths


def test_a_result_never_stands_beside_predictions_of_another(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is killed after the new predictions.csv, and before the new result.json."""
    import dinolab.evals.evaluate

    folder = run.evaluations / "knn"
    assert (folder / "result.json").is_file()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dinolab.evals.evaluate, "write_result", killed)
    with pytest.raises(KeyboardInterrupt):
        dinolab.evaluate("knn", run.path, "images", out=folder, size=16, k=1)
    assert (folder / "predictions.csv").is_file() and not (folder / "result.json").exists()
    monkeypatch.setattr(dinolab.evals.evaluate, "write_result", write_result)
    dinolab.evaluate("knn", run.path, "images", out=folder, size=16, k=1)
    assert json.loads((folder / "result.json").read_text())["settings"]["k"] == 1
