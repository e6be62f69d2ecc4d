"""Whole runs: exact resume, signals, kills, broken images, mistakes."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import dinolab
from dinolab.cli import main
from dinolab.data.sources import open_source
from dinolab.errors import UserError
from dinolab.methods.dinov2 import DINOv2
from dinolab.recipes import load_config
from dinolab.runs.build import all_alike, build_method
from dinolab.runs.run import Run
from dinolab.training import checkpoint
from dinolab.training.loop import Interrupted
from dinolab.training.optim import make_optimizer
from tests.pictures import TINY, fit_words, make_folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("pictures"))


def words(pictures: Path, run: Path, *more: str) -> list[str]:
    return fit_words([*TINY, f"data.path={pictures}", f"run.dir={run}", *more])


def train(pictures: Path, run: Path, *more: str, resume: bool = False) -> Path:
    return dinolab.train(load_config(None, words(pictures, run, *more)), resume=resume)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def assert_same_run(a: Path, b: Path) -> None:
    """Bit for bit the same teacher and the same last training state; the same lines of the log."""
    for name, tensor in weights(a).items():
        assert torch.equal(tensor, weights(b)[name]), name
    logs = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (a, b)]
    keys = ("step", "loss", "grad_norm", "knn", "effective_rank")
    assert [[row.get(k) for k in keys] for row in logs[0]] == [[row.get(k) for k in keys] for row in logs[1]]


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, signum: int) -> None:
    """Send ourselves a signal right after a step is logged."""
    logged = Run.log_step

    def log_step(self: Run, line: dict, *args: object) -> None:
        logged(self, line, *args)
        if line["step"] == step:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(Run, "log_step", log_step)


@pytest.mark.parametrize("method", ["dino", "dinov2"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_and_resumed_equals_uninterrupted(
    method: str, signum: int, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(pictures, tmp_path / "whole", f"method={method}")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6, signum)
        with pytest.raises(Interrupted) as stop:
            train(pictures, tmp_path / "parts", f"method={method}")
    assert stop.value.signum == signum
    assert [p.name for p in checkpoint.checkpoints(tmp_path / "parts" / "checkpoints")][-1] == "step_00000007"
    # another number of workers and micro-steps of saving must not matter either
    parts = train(pictures, tmp_path / "parts", f"method={method}", "run.workers=2", resume=True)
    # the interruption itself logs its step; the uninterrupted run does not
    lines = (parts / "metrics.jsonl").read_text().splitlines()
    (parts / "metrics.jsonl").write_text("\n".join(x for x in lines if json.loads(x)["step"] != 7) + "\n")
    assert_same_run(whole, parts)


def start(pictures: Path, run: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "dinolab", "train", *words(pictures, run, "optim.length=60 steps", *more)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_at_random_moments_equals_uninterrupted(pictures: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(pictures, whole).wait(timeout=120) == 0
    chance, kills = random.Random(0), 0
    for _ in range(20):
        before = (
            len(checkpoint.checkpoints(killed / "checkpoints")) and checkpoint.checkpoints(killed / "checkpoints")[-1]
        )
        process = start(pictures, killed)
        while process.poll() is None:  # let it reach a new checkpoint first, or the test would never end
            found = checkpoint.checkpoints(killed / "checkpoints")
            if found and found[-1] != before and kills < 3:
                time.sleep(chance.uniform(0, 0.4))
                process.send_signal(signal.SIGKILL)
                kills += process.wait() == -signal.SIGKILL
                break
            time.sleep(0.005)
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL, process.stderr.read()
    assert process.returncode == 0 and kills >= 2
    assert_same_run(whole, killed)


def test_half_written_leftovers_do_no_harm(pictures: Path, tmp_path: Path) -> None:
    run = train(pictures, tmp_path / "run")
    (run / "checkpoints" / "step_00000099.tmp").mkdir()
    (run / "checkpoints" / "step_00000098").mkdir()  # no metadata: not whole
    with (run / "metrics.jsonl").open("a") as f:
        f.write('{"step": 12, "lo')
    train(pictures, run, resume=True)
    assert all(json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())


def test_a_kill_between_the_last_checkpoint_and_the_product_is_mended(pictures: Path, tmp_path: Path) -> None:
    run = train(pictures, tmp_path / "run")
    whole = weights(run)
    (run / "model.safetensors").unlink()
    train(pictures, run)
    assert all(torch.equal(w, weights(run)[name]) for name, w in whole.items())


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(pictures: Path, tmp_path: Path) -> None:
    run = train(pictures, tmp_path / "run")
    whole = weights(run)
    last = checkpoint.checkpoints(run / "checkpoints")[-1]
    for file in last.glob("*.distcp"):
        file.write_bytes(file.read_bytes()[:100])
    (last / "half.distcp").touch()
    train(pictures, run)
    log = (run / "log.txt").read_text()
    assert "step_00000012: this checkpoint cannot be read" in log and "it is now step_00000012.unreadable" in log
    assert re.search(r"resumed from .*step_00000008, step 8 of 12", log)
    assert all(torch.equal(w, weights(run)[name]) for name, w in whole.items())
    assert checkpoint.checkpoints(run / "checkpoints")[-1] == last and not (last / "half.distcp").exists()

    for place in checkpoint.checkpoints(run / "checkpoints"):
        (place / ".metadata").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"step_00000012: this .* cannot be read .*step_00000008.* delete them to start"
    ):
        train(pictures, run)
    (run / "environment.json").write_text("{")
    with pytest.raises(UserError, match=r"environment\.json: cannot be read"):
        train(pictures, run)


def test_tiny_micro_batches_without_a_masked_crop(pictures: Path, tmp_path: Path) -> None:
    run = train(pictures, tmp_path / "run", "run.micro_batch=2", "masks.share=0.1", "optim.length=6 steps")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(r["ibot"]) for r in rows if "loss" in r)


def test_another_process_in_the_same_folder_is_refused(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    code = f"from dinolab.runs.folder import hold; from pathlib import Path; f = hold(Path({str(tmp_path / 'run')!r})); print(); input()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    other.stdout.readline()
    with pytest.raises(UserError, match="another process trains in this folder"):
        train(pictures, tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()  # nothing of the other's was touched
    other.communicate("\n")
    train(pictures, tmp_path / "run", "optim.length=1 steps")


def test_what_a_run_leaves(pictures: Path, tmp_path: Path) -> None:
    run = train(pictures, tmp_path / "run", "run.pictures=true", "run.keep=1")
    for name in ("config.yaml", "metrics.jsonl", "log.txt", "environment.json", "model.safetensors", "model.json"):
        assert (run / name).stat().st_size > 0
    for name in ("curves.png", "attention.png", "pca.png"):
        assert (run / name).stat().st_size > 5000
    assert [p.name for p in checkpoint.checkpoints(run / "checkpoints")] == ["step_00000012"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "knn" in r] == [0, 6, 12]
    steps = [r for r in rows if "loss" in r]
    assert [r["step"] for r in steps] == [2, 4, 6, 8, 10, 12]
    wanted = {"dino", "ibot", "koleo", "grad_norm", "images_per_s", "data_wait", "lr", "momentum", "epoch"}
    wanted |= {"teacher_entropy", "kl", "effective_rank", "prototypes_used", "centre_norm"}
    assert wanted <= steps[0].keys()
    assert json.loads((run / "environment.json").read_text())["packages"]["torch"] == torch.__version__

    encoder = dinolab.load(run)
    features = encoder(torch.zeros(2, 3, 20, 28, dtype=torch.uint8))
    assert features.cls.shape == (2, 16) and features.patches.shape == (2, 5, 7, 16)
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())


def test_a_broken_image_is_named_and_counted_once_and_too_many_stop_the_run(pictures: Path, tmp_path: Path) -> None:
    data = shutil.copytree(pictures, tmp_path / "data")
    (data / "class0" / "000.png").write_bytes(b"not an image")
    run = train(data, tmp_path / "run", "data.max_broken=0.1", "eval.every=0 steps")
    log = (run / "log.txt").read_text()
    assert log.count("000.png") == 1 and "replaced" in log
    with pytest.raises(UserError, match=r"1 of 24 images cannot be read, more than data\.max_broken=0\.01") as stopped:
        train(data, tmp_path / "strict")
    # both ways out that the message names lead on
    assert "log.txt and use another run.dir, or raise the option" in str(stopped.value)
    train(data, tmp_path / "strict", "data.max_broken=0.1")


def test_nan_stops_the_run_and_names_the_last_good_checkpoint(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    method = __import__("dinolab.methods.dinov2", fromlist=["DINOv2"]).DINOv2
    plain, calls = method.loss, []

    def loss(self, *args):
        calls.append(1)
        value, logs = plain(self, *args)
        bad = float("nan") if len(calls) > 6 else 1.0
        return value * bad, {k: v * bad for k, v in logs.items()}

    monkeypatch.setattr(method, "loss", loss)
    with pytest.raises(UserError, match=r"NaN: at step 8.*The last good checkpoint is .*step_00000004"):
        train(pictures, run)
    assert "The last good checkpoint is" in (run / "log.txt").read_text()
    assert [p.name for p in checkpoint.checkpoints(run / "checkpoints")] == ["step_00000004"]
    assert all(w.isfinite().all() for w in weights(run).values())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "the disk of /a is full"),
        (
            RuntimeError("could not create a primitive"),
            r"out of memory with 8 images at a time: set run\.micro_batch=4 or less",
        ),
        (MemoryError(), "out of memory with 8"),
    ],
)
def test_a_lack_of_disk_or_memory_stops_the_run_and_names_the_last_good_checkpoint(
    error: Exception, message: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = DINOv2.targets

    def targets(self, batches, s):
        if checkpoint.checkpoints(tmp_path / "run" / "checkpoints"):
            raise error
        return plain(self, batches, s)

    monkeypatch.setattr(DINOv2, "targets", targets)
    with pytest.raises(UserError, match=message + ".*The last good checkpoint is .*step_00000004"):
        train(pictures, tmp_path / "run")


def test_images_that_are_all_the_same_are_noticed_at_the_start(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data")
    source = open_source(str(data))
    assert all_alike(source) == ""
    for path in source.paths:
        shutil.copy(source.paths[0], path) if path != source.paths[0] else None
    assert "8 images spread over" in all_alike(source) and "are identical, so" in all_alike(source)
    for path in source.paths:
        Image.new("RGB", (9, 9)).save(path)
    assert "identical and of a single colour" in all_alike(source)


def test_a_step_that_is_not_finite_can_be_skipped(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = DINOv2.loss, []

    def loss(self, *args):
        calls.append(1)
        value, logs = plain(self, *args)
        bad = float("nan") if len(calls) in (3, 8) else 1.0
        return value * bad, {k: v * bad for k, v in logs.items()}

    monkeypatch.setattr(DINOv2, "loss", loss)
    run = train(pictures, tmp_path / "run", "optim.nan=skip")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["skipped"]) for row in lines if "skipped" in row] == [(4, 1), (8, 1)]
    assert [row["step"] for row in lines if "loss" in row] == [2, 4, 6, 10, 12]  # of step 8 there is nothing to tell
    assert all(w.isfinite().all() for w in weights(run).values())

    bad = {"loss": torch.tensor(float("nan"))}
    monkeypatch.setattr(DINOv2, "loss", lambda self, *args: (plain(self, *args)[0] * float("nan"), bad))
    with pytest.raises(UserError, match="NaN: at step 12"):  # nothing but such steps
        train(pictures, tmp_path / "hopeless", "optim.nan=skip")


def test_checkpoints_kept_for_good(pictures: Path, tmp_path: Path) -> None:
    run = train(pictures, tmp_path / "run", "run.save_every=2 steps", "run.keep=1", "run.keep_every=6 steps")
    assert [checkpoint.step_of(p) for p in checkpoint.checkpoints(run / "checkpoints")] == [6, 12]
    run = train(pictures, tmp_path / "few", "run.save_every=2 steps", "run.keep=2")
    assert [checkpoint.step_of(p) for p in checkpoint.checkpoints(run / "checkpoints")] == [10, 12]


@pytest.mark.parametrize("step", [12, 14, 15])
def test_high_resolution_phase_resumes_exactly(
    step: int, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    high = ["highres.length=5 steps", "highres.batch_size=4", "run.log_every=1", "eval.every=0 steps"]
    whole = train(pictures, tmp_path / "whole", *high)
    with monkeypatch.context() as patch:
        interrupt_at(patch, step, signal.SIGTERM)
        with pytest.raises(Interrupted):
            train(pictures, tmp_path / "parts", *high)
    assert_same_run(whole, train(pictures, tmp_path / "parts", *high, "run.workers=1"))
    assert weights(whole)["pos_embed"].shape[1] == 1 + (2 * 16 // 4) ** 2
    assert dinolab.load(whole).image_size == 32
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 18))
    assert lines[-1]["epoch"] == pytest.approx(12 * 8 / 24 + 5 * 4 / 24)
    assert max(line["lr"] for line in lines[12:]) <= 5e-5 * 4 / 256  # a tenth, by its own batch


def test_any_checkpoint_opens_as_an_encoder(pictures: Path, tmp_path: Path) -> None:
    run = train(pictures, tmp_path / "run", "highres.length=4 steps", "run.keep=9", "run.save_every=4 steps")
    images = torch.rand(2, 3, 32, 32)
    places = {checkpoint.step_of(place): place for place in checkpoint.checkpoints(run / "checkpoints")}
    assert dinolab.load(places[12]).image_size == 16 and dinolab.load(places[16]).image_size == 32
    torch.testing.assert_close(dinolab.load(places[16])(images).cls, dinolab.load(run)(images).cls, rtol=0, atol=0)
    assert dinolab.load(places[4]).info["step"] == 4
    assert (dinolab.load(places[4])(images).cls - dinolab.load(places[16])(images).cls).abs().max() > 1e-5
    dcp_to_torch_save(places[4], tmp_path / "whole.pt")
    method = torch.load(tmp_path / "whole.pt", weights_only=False)["method"]
    for name, tensor in dinolab.load(places[4]).backbone.state_dict().items():
        assert torch.equal(tensor, method[f"teacher.backbone.{name}"]), name
    (places[8] / ".metadata").write_bytes(b"")
    with pytest.raises(UserError, match="step_00000008: this checkpoint cannot be read"):
        dinolab.load(places[8])


def test_a_finished_run_can_be_given_a_high_resolution_phase(pictures: Path, tmp_path: Path) -> None:
    high = ["highres.length=4 steps", "highres.global_size=24"]
    whole = train(pictures, tmp_path / "whole", *high)
    run = train(pictures, tmp_path / "run")
    train(pictures, run, *high)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(run)[name]), name
    with pytest.raises(UserError, match=r"highres\.length=9 steps \(was 4 steps\)"):
        train(pictures, run, "highres.length=9 steps", "highres.global_size=24")
    with pytest.raises(
        UserError, match=r"in the phase of highres\.length=4 steps: views\.global_size=30 is not a mult"
    ):
        train(pictures, tmp_path / "odd", "highres.length=4 steps", "highres.global_size=30")


def test_training_goes_on_from_given_weights(pictures: Path, tmp_path: Path) -> None:
    run = train(pictures, tmp_path / "run")
    more = [f"init.weights={run}", "init.freeze_backbone=4 steps", "run.keep=3", "views.global_size=32"]
    going_on = train(pictures, tmp_path / "on", *more, "optim.length=8 steps")
    assert "step 0: k-NN" in (going_on / "log.txt").read_text()

    cfg = load_config(None, words(pictures, going_on, *more))
    given = build_method(cfg, torch.device("cpu")).student.state_dict()
    torch.testing.assert_close(given["backbone.blocks.0.mlp.fc1.weight"], weights(run)["blocks.0.mlp.fc1.weight"])
    assert given["backbone.pos_embed"].shape[1] == 1 + 8 * 8
    method = build_method(cfg, torch.device("cpu"), fresh=False)
    first, last = checkpoint.checkpoints(going_on / "checkpoints")
    for place, frozen in ((first, True), (last, False)):
        checkpoint.load(place, method, make_optimizer(method.student, cfg.optim))
        now = method.student.state_dict()
        same = [name for name in now if torch.equal(now[name], given[name])]
        assert all(name in same for name in now if name.startswith("backbone.")) == frozen
        assert not any("head.mlp" in name and "weight" in name for name in same)
    run_again = train(pictures, going_on, *more, "optim.length=8 steps")  # needs the weights no more
    assert run_again == going_on


def test_another_configuration_in_the_same_folder_is_refused(pictures: Path, tmp_path: Path) -> None:
    run = train(pictures, tmp_path / "run")
    with pytest.raises(UserError, match=r"optim\.lr=0\.1 \(was 0\.0005\).*another run\.dir"):
        train(pictures, run, "optim.lr=0.1")
    with pytest.raises(UserError, match=r"has 26 images, the run in .* began with 24"):
        train(make_folder(tmp_path / "more", per_class=13), run)
    moved = shutil.copytree(pictures, tmp_path / "moved")
    train(moved, run)  # the same images elsewhere
    (moved / "class0" / "000.png").rename(moved / "class0" / "other.png")
    with pytest.raises(UserError, match="checksum of their names"):
        train(moved, run)


def test_resume_by_the_runs_folder(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(pictures, tmp_path / "run")
    assert main(["train", str(run), "resume=true"]) == 0
    assert main(["train", str(run), "resume=true", "optim.lr=0.1"]) == 2
    assert "optim.lr=0.1 (was 0.0005)" in capsys.readouterr().err
    assert main(["train", "resume=true", f"run.dir={tmp_path / 'typo'}", f"data.path={pictures}"]) == 2
    assert "no such run to resume" in capsys.readouterr().err and not (tmp_path / "typo").exists()


@pytest.mark.parametrize(("more", "message"), [
    (["data.path=/no/such/folder"], "data.path"),
    (["data.path="], "data.path is not set"),
    (["optim.lrr=1"], "did you mean optim.lr?"),
    (["optim.warmup=10"], "optim.warmup"),
    (["run.device=cuda:7"], "run.device=cuda:7"),
    (["eval.train=somewhere"], "eval.train and eval.test go together"),
    (["model.heads=3"], "model.heads"),
    (["run.device=meta"], "run.device=meta"),
    (["run.dir=/proc/none"], "/proc/none"),
    (["resume=true"], "no such run to resume"),
])  # fmt: skip
def test_mistakes_on_the_command_line_are_one_line(
    more: list[str], message: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words(pictures, tmp_path / "run"), *more]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("dinolab: ") and message in last


def test_schedules_and_knn_from_the_command_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plot = tmp_path / "schedules.png"
    assert main(["train", "show_schedules=true", *words(pictures, tmp_path / "none")]) == 0
    assert plot.stat().st_size > 5000 and not (tmp_path / "none").exists()
    run = train(pictures, tmp_path / "run")
    capsys.readouterr()
    given = [f"train={pictures}", f"test={pictures}", f"cache={tmp_path / 'cache'}", "workers=0", "k=3"]
    for encoder in (str(run), "pixels"):
        assert main(["eval", "knn", encoder, *given, f"out={tmp_path / 'eval'}"]) == 0
        assert (
            json.loads((tmp_path / "eval" / "result.json").read_text())["figures"]["accuracy"]["value"] > 0.9
        )  # the classes are colours
    capsys.readouterr()
    assert main(["eval", "knn", str(tmp_path), *given]) == 2
    assert "no model.json there" in capsys.readouterr().err


def test_broken_products_are_named(pictures: Path, tmp_path: Path) -> None:
    run = train(pictures, tmp_path / "run")
    whole = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors: truncated"):
        dinolab.load(run)
    (run / "model.safetensors").write_bytes(whole)
    card = json.loads((run / "model.json").read_text())
    card["model"]["depth"] = 3
    (run / "model.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"does not fit.*blocks\.2\.attn\.qkv\.weight is missing"):
        dinolab.load(run)
    (run / "model.json").write_text("{")
    with pytest.raises(UserError, match=r"model\.json: cannot be read"):
        dinolab.load(run)


def test_training_on_real_photos(har: Path, tmp_path: Path) -> None:
    """The Human Action Recognition layout: CSV files beside image folders."""
    run = train(
        har / "Training_set.csv", tmp_path / "run", "optim.length=3 steps", "eval.every=3 steps", "eval.max_images=150",
        f"eval.train={har / 'Training_set.csv'}", f"eval.test={har / 'Testing_labels.csv'}", "run.workers=1",
    )  # fmt: skip
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["knn_test_images"] == 150 and 0 <= rows[-1]["knn"] < 0.5
    assert all(np.isfinite(r["loss"]) for r in rows if r["step"] == 3 and "loss" in r)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="TorchInductor needs a C++ compiler")
def test_compiled_blocks_train_the_same(pictures: Path, tmp_path: Path) -> None:
    short = ("optim.length=4 steps", "eval.every=4 steps", "run.log_every=1")
    plain, compiled = (train(pictures, tmp_path / str(on), *short, f"run.compile={on}") for on in ("false", "true"))
    for name, tensor in weights(plain).items():
        torch.testing.assert_close(weights(compiled)[name], tensor, atol=1e-5, rtol=1e-4)


def test_a_checkpoint_that_cannot_be_written_is_named_and_the_one_before_it_stays(
    pictures: Path, tmp_path: Path
) -> None:
    run = train(pictures, tmp_path / "run", "eval.every=0 steps", "optim.length=60 steps", "run.save_every=30 steps")
    for place in checkpoint.checkpoints(run / "checkpoints")[1:]:
        shutil.rmtree(place)
    (largest,) = sorted((run / "checkpoints").glob("*/*.distcp"), key=lambda f: f.stat().st_size)[-1:]
    code = (
        "import resource, signal, sys; from dinolab.cli import main; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (n := {largest.stat().st_size // 2}, n)); sys.exit(main(sys.argv[1:]))"
    )
    more = ["eval.every=0 steps", "optim.length=60 steps", "run.save_every=30 steps"]
    full = subprocess.run(
        [sys.executable, "-c", code, "train", *words(pictures, run, *more)], capture_output=True, text=True, timeout=120
    )
    assert full.returncode == 2 and "Traceback" not in full.stderr
    assert "step_00000060: cannot be written, is the disk full?" in full.stderr
    assert "The last good checkpoint is" in full.stderr and "step_00000030" in full.stderr
    train(pictures, run, *more)  # with room again
    assert checkpoint.step_of(checkpoint.checkpoints(run / "checkpoints")[-1]) == 60


def test_too_few_open_files_end_a_run_in_one_line(pictures: Path, tmp_path: Path) -> None:
    more = ["eval.every=0 steps", "run.workers=2", "optim.batch_size=24", "run.micro_batch=2"]
    code = (
        "import resource, sys; from dinolab.cli import main; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)); sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "train", *words(pictures, tmp_path / "run", *more)]
    few = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert few.returncode == 2 and "Traceback" not in few.stderr
    assert "(ulimit -n)" in few.stderr.splitlines()[-1] and "run.workers" in few.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_script_may_train_in_a_thread_and_without_a_main_guard(pictures: Path, tmp_path: Path) -> None:
    words = [*TINY, f"data.path={pictures}", f"run.dir={tmp_path / 'run'}", "optim.length=1 steps", "run.workers=1"]
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing\nfrom concurrent.futures import ThreadPoolExecutor\nimport dinolab\n"
        "multiprocessing.set_start_method('spawn', force=True)\n"  # as on other systems; it runs the script again
        f"with ThreadPoolExecutor(1) as pool:\n    pool.submit(dinolab.train, None, *{words!r}).result()\n"
    )
    subprocess.run([sys.executable, str(script)], check=True, timeout=120)
    assert (tmp_path / "run" / "model.safetensors").is_file()
