"""A plan's figures agree with one another and with planted bottlenecks, and nothing is left behind."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from dinolab.cli import main
from dinolab.data.samples import MicroBatches
from dinolab.data.types import Views
from dinolab.errors import UserError
from dinolab.options import Config
from dinolab.plan import Plan, advice, forecast, memory, pace, plan, words
from dinolab.plan.memory import BATCHES, Memory, refuse_too_large, sizes_up_to
from dinolab.plan.text import duration
from dinolab.precision import choose_precision
from dinolab.recipes import load_config
from dinolab.runs import fit, rig
from dinolab.runs.build import micro_batch_sizes, out_of_memory
from dinolab.runs.fit import largest_that_fits, line
from dinolab.training.phases import plan_phases
from tests.pictures import TINY, make_folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Steps this small are slowest where threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config(pictures: Path, folder: Path, *more: str) -> Config:
    return load_config(None, [*TINY, f"data.path={pictures}", f"run.dir={folder / 'deep' / 'run'}", *more])


@pytest.fixture(scope="module")
def made(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return plan(config(pictures, tmp_path_factory.mktemp("plan"), "run.workers=1"), steps=3)


def test_figures_agree(made: Plan) -> None:
    low, mid, high = made.pace.images_per_s
    assert 0 < low <= mid <= high
    assert min(made.pace.step_seconds, made.pace.loader_seconds, made.pace.together_seconds, made.pace.log_seconds) > 0
    assert made.seconds_per_step == pytest.approx(made.pace.together_seconds + made.pace.log_seconds / 2)  # log_every=2
    assert made.steps == 12 and made.steps_seconds == pytest.approx(12 * made.seconds_per_step)
    # 12 steps: k-NN before the first, after the 6th and the last; checkpoints after the 4th, the 8th and the last
    assert (made.evaluations, made.checkpoints) == (3, 3)
    extra = 3 * made.evaluation_seconds + 3 * made.checkpoint_seconds
    assert extra > 0 and made.total_seconds == pytest.approx(made.steps_seconds + extra)
    assert 0 <= made.pace.data_wait <= 1 and 0 < made.reading.decode_share <= 1
    assert made.reading.short_side == 24 and made.needed_side == 36  # 16 px of 40 % of the area; locals: 8 px of 5 %
    assert made.memory is not None and 0 < made.memory.peak < made.memory.room <= made.memory.total


def test_nothing_is_left_behind_and_every_figure_is_printed(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*TINY, f"data.path={pictures}", f"run.dir={tmp_path / 'run'}", "eval.every=0 steps"]
    assert main(["plan", *options, "steps=2", "run.micro_batch=4", f"json={tmp_path / 'plan.json'}"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    figures = json.loads((tmp_path / "plan.json").read_text())
    assert figures["pace"]["measured_steps"] == 2 and figures["cfg"]["run"]["micro_batch"] == 4
    assert figures["evaluations"] == 0 and figures["evaluation_seconds"] == 0
    text = capsys.readouterr().out
    for head in ("Time", "Speed", "Limit", "Memory", "Advice"):
        assert f"\n{head} " in text
    assert "12 steps of 8" in text and "(12 x " in text and "evaluations" not in text
    assert f"the {figures['limit']};" in text and all(line in text for line in figures["advice"])


def test_both_phases_are_measured_each_with_its_own_crops(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, seen = rig.train_step, []

    def noted(method: object, optimizer: object, views: list[Views], *rest: object) -> object:
        seen.append(views[0].global_crops.shape[-1])
        return step(method, optimizer, views, *rest)

    monkeypatch.setattr(rig, "train_step", noted)
    made = plan(config(pictures, tmp_path, "highres.length=5 steps", "highres.batch_size=4"), steps=1)
    assert set(seen) == {16, 32} and seen == sorted(seen, reverse=True)  # that of the most memory first
    then = made.then
    assert then is not None and then.then is None and then.cfg.views.global_size == 32
    assert (made.steps, made.evaluations, made.checkpoints) == (12, 3, 3)
    assert (then.steps, then.evaluations, then.checkpoints) == (5, 2, 2)  # of steps 15 and 17, 16 and 17
    for phase in (made, then):
        extra = phase.evaluations * phase.evaluation_seconds + phase.checkpoints * phase.checkpoint_seconds
        assert phase.phase_seconds == pytest.approx(phase.steps_seconds + extra)
    assert made.total_seconds == pytest.approx(made.phase_seconds + then.phase_seconds)
    assert made.needed_side == then.needed_side == 51  # pixels, 32 of 40 % of the area
    assert made.memory is None and then.memory is not None and then.memory.option == "highres.batch_size"
    text = words(made)
    assert f"\nTotal    {duration(made.total_seconds)}\n" in text
    assert f"\nthen 5 steps with crops of 32 pixels (highres)\nTime     {duration(then.phase_seconds)}\n" in text
    assert [text.count(f"\n{head} ") for head in ("Time", "Speed", "Memory", "Advice")] == [2, 2, 2, 1]
    assert json.loads(json.dumps(asdict(made)))["then"]["steps"] == 5


def test_what_is_due_in_each_phase() -> None:
    cfg = load_config(None, [*TINY, "highres.length=5 steps", "highres.batch_size=2"])
    phases = plan_phases(cfg, 24)
    for phase in phases:
        for every in range(1, 20):
            due = [n % every == 0 or n == phase.last for n in range(phase.first + 1, phase.last + 1)]  # as in the loop
            assert forecast.times_due(phase, every) == sum(due)
    first, last = (forecast.pixels(phase.cfg) for phase in phases)
    assert (first, last) == (8 * 2 * (16**2 + 8**2), 2 * 2 * (32**2 + 8**2))


def test_work_that_is_not_timed_is_named(made: Plan) -> None:
    distilled = replace(made, cfg=replace(made.cfg, method="distill"))
    assert "clusters the teacher's features, which this forecast does not include" in words(distilled)
    assert "clusters" not in words(made) and "Total" not in words(made)


def test_an_existing_run_is_not_touched(pictures: Path, tmp_path: Path) -> None:
    cfg = config(pictures, tmp_path)
    run = Path(cfg.run.dir)
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("mine")
    plan(cfg, steps=1)
    assert [p.name for p in run.iterdir()] == ["config.yaml"] and (run / "config.yaml").read_text() == "mine"


def test_a_planted_slow_loader_is_the_limit(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = MicroBatches.read

    def slowly(self: MicroBatches, *args: object) -> object:
        time.sleep(0.06)
        return read(self, *args)

    monkeypatch.setattr(MicroBatches, "read", slowly)
    monkeypatch.setattr(pace, "READ", 4)
    monkeypatch.setattr("dinolab.runs.rig.cores", lambda: 8)
    made = plan(config(pictures, tmp_path, "run.workers=1", "eval.every=0 steps"), steps=2)
    assert made.pace.limit == "loader" and made.pace.data_wait > 0.5 and made.reading.decode_share > 0.5
    text = words(made)
    assert "the loader;" in text and "run.workers=8: with run.workers=1 on 8 cores, the loader takes" in text
    assert "data pack" not in text  # the pictures are no larger than needed


def test_a_planted_slow_step_is_the_limit(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = rig.train_step

    def slowly(*args: object) -> object:
        time.sleep(0.3)
        return step(*args)

    monkeypatch.setattr(rig, "train_step", slowly)
    made = plan(config(pictures, tmp_path, "run.workers=1", "eval.every=0 steps"), steps=2)
    assert made.pace.limit == "device" and made.pace.step_seconds > 0.3
    assert "the device;" in words(made) and not any("run.workers" in text for text in advice(made))


class Simulated:
    """A loader of processes that each take `load` seconds a micro-batch and keep two ready, on a clock of its own.

    As DataLoader: micro-batch n is made by process n % workers, in that order, once n - 2 * workers has been handed out.
    """

    def __init__(self, workers: int, load: float, step: float):
        self.now, self.free, self.handed_out = 0.0, [0.0] * workers, []
        self.load, self.seconds = load, step
        self.workers, self.device = workers, torch.device("cpu")

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def step(self, batch: list[int]) -> None:
        self.now += self.seconds

    def stream(self, per_step: int) -> Iterator[list[int]]:
        n = 0
        while True:
            batch = []
            for _ in range(per_step):
                wanted = self.handed_out[n - 2 * self.workers] if n >= 2 * self.workers else 0.0
                self.free[n % self.workers] = max(self.free[n % self.workers], wanted) + self.load
                self.now = max(self.now, self.free[n % self.workers])
                self.handed_out.append(self.now)
                batch.append(n)
                n += 1
            yield batch


@pytest.mark.parametrize("per_step", [1, 2, 3])
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("step", [0.1, 0.8, 1.3, 4.0])
def test_the_long_runs_pace_from_few_steps(
    per_step: int, workers: int, step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes deliver in bursts, and the batches that they have ready hide how slow they are: neither may reach the forecast."""
    long_run = Simulated(workers, 1.0, step)
    stream = long_run.stream(per_step)
    ends = [0.0]
    for _ in range(1200):
        long_run.step(next(stream))
        ends.append(long_run.now)

    simulated = Simulated(workers, 1.0, step)
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=simulated.perf_counter, sleep=simulated.sleep))
    stream = simulated.stream(per_step)
    loader = pace.time_loader(simulated, stream)
    assert loader == pytest.approx(per_step / workers)
    seconds, wait = pace.time_together(simulated, stream, 5, loader, step, per_step)
    assert np.mean(seconds) == pytest.approx((ends[-1] - ends[600]) / 600)
    assert wait == pytest.approx(1 - step / np.mean(seconds), abs=1e-9)


def test_largest_batch_by_planted_peaks() -> None:
    """A step that takes 2 GB and 0.1 GB an image, in 20 GB."""
    fixed, per_image = line([(16, 3_600_000_000), (32, 5_200_000_000)])
    assert (fixed, per_image) == (pytest.approx(2e9), pytest.approx(1e8))
    assert largest_that_fits(fixed, per_image, 20e9, BATCHES) == 176  # of 180, in eights
    assert largest_that_fits(fixed, per_image, 2.5e9, BATCHES) == 4
    assert largest_that_fits(fixed, per_image, 20e9, micro_batch_sizes(96)) == 96
    assert largest_that_fits(fixed, per_image, 5e9, micro_batch_sizes(96)) == 24
    assert largest_that_fits(fixed, per_image, 1e9, BATCHES) == 0
    assert line([(8, 500), (16, 400)]) == (400, 0.0)  # noise is larger than the batch


def test_micro_batch_sizes_divide_the_batch() -> None:
    assert micro_batch_sizes(96) == [1, 2, 4, 8, 16, 24, 32, 48, 96]
    assert micro_batch_sizes(10) == [1, 2, 10] and micro_batch_sizes(1) == [1]
    assert sizes_up_to(64) == [8, 16, 32, 64] and sizes_up_to(8) == [4, 8] and sizes_up_to(1) == [1]
    assert sizes_up_to(12) == [6, 12] and sizes_up_to(2) == [1, 2]


@pytest.fixture
def fake_memory(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Peaks by the line 100 + images + 9 * micro_batch, of 1000 bytes; returns the (images, micro_batch) that were tried."""
    tried: list[tuple[int, int]] = []

    def step_peak(_: object, images: int, micro: int) -> int:
        tried.append((images, micro))
        if 100 + images + 9 * micro > 840:  # more fragments than the line knows of
            raise torch.OutOfMemoryError
        return 100 + images + 9 * micro

    for module in (fit, memory):
        monkeypatch.setattr(module, "step_peak", step_peak)
    monkeypatch.setattr(memory, "can_measure", lambda device: True)
    monkeypatch.setattr(memory, "room", lambda device: (1000, 1200))
    return tried


def stand_in(device: str, *options: str) -> SimpleNamespace:
    optimizer = SimpleNamespace(zero_grad=lambda set_to_none: None)
    cfg = load_config(None, [*TINY, *options])
    names = {"batch_option": "optim.batch_size", "micro_option": "run.micro_batch"}
    return SimpleNamespace(device=torch.device(device), cfg=cfg, optimizer=optimizer, **names)


def test_on_a_gpu_the_prediction_is_tried_and_stepped_down(fake_memory: list[tuple[int, int]]) -> None:
    found = memory.measure_memory(stand_in("cuda", "optim.batch_size=32"), load_seconds=1e-3)
    # 900 of 1000 bytes for 80 images, which do not fit; then 810 for 64 (of 71), which do
    assert fake_memory == [(8, 8), (16, 16), (32, 32), (80, 80), (64, 64)]
    assert found == Memory(420, 1000, 1200, "optim.batch_size", 100, 10, 64, 1024, tried=True)


def test_loading_for_a_trial_must_not_take_long(fake_memory: list[tuple[int, int]]) -> None:
    found = memory.measure_memory(stand_in("cuda", "optim.batch_size=32"), load_seconds=1.0)
    assert found is not None and (found.largest, found.tried) == (80, False)
    found = memory.measure_memory(stand_in("cpu", "optim.batch_size=2"), load_seconds=1e-3)
    assert found is not None and found.largest == 64  # 32 times the batch: no line reaches further


def test_with_micro_batches_their_size_is_what_fits(fake_memory: list[tuple[int, int]]) -> None:
    options = ("optim.batch_size=128", "run.micro_batch=16")
    found = memory.measure_memory(stand_in("cpu", *options), load_seconds=1e-3)
    # whole steps of growing size first, then the whole batch in smaller parts, which gives the cost of a part
    assert fake_memory == [(64, 8), (128, 8), (128, 16)]
    assert found == Memory(372, 1000, 1200, "run.micro_batch", 228, 9, 64, 128, tried=False)


def test_on_a_cpu_a_step_that_cannot_fit_is_not_tried(fake_memory: list[tuple[int, int]]) -> None:
    with pytest.raises(UserError, match=r"a step of 128 images would take.*optim\.batch_size=80 or less"):
        memory.measure_memory(stand_in("cpu", "optim.batch_size=128"), load_seconds=1e-3)
    assert fake_memory == [(8, 8), (16, 16), (32, 32), (64, 64)]
    refuse_too_large(stand_in("cpu"), [(8, 10)], 1 << 20, 100)  # one point is no line


def test_out_of_memory_names_the_option_to_change(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(rig, "train_step", full)
    assert main(["plan", *TINY, f"data.path={pictures}", f"run.dir={tmp_path / 'run'}"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == "dinolab: out of memory with 8 images at a time: set run.micro_batch=4 or less"
    assert list(tmp_path.iterdir()) == []
    none_smaller = load_config(None, ["optim.batch_size=2"])
    assert "a smaller model.size" in str(out_of_memory(none_smaller))


def test_advice_follows_from_figures(made: Plan) -> None:
    quiet = changed(made, images_per_s=(99.0, 100.0, 101.0), data_wait=0.0, step_seconds=0.1, together_seconds=0.1)
    quiet = changed(quiet, bf16_step_seconds=None)
    slow = changed(quiet, loader_seconds=0.3, step_seconds=0.1, data_wait=0.66, cores=16, workers=4)
    assert advice(quiet) == []
    assert [text.split(":")[0] for text in advice(slow)] == ["run.workers=12"]
    assert advice(changed(slow, workers=16)) == []
    assert advice(changed(slow, workers=0))[0].startswith("run.workers=1:")
    large = changed(slow, workers=16, short_side=500, needed_side=215, decode_share=0.8)
    assert "short_side=215: 80% of the loader's time" in advice(large)[0] and len(advice(large)) == 1
    shared_cores = changed(large, data_wait=0.0, loader_seconds=0.05, together_seconds=0.12)
    assert advice(shared_cores) == advice(large) and advice(changed(shared_cores, device="cuda")) == []
    assert advice(changed(large, short_side=250)) == advice(changed(large, decode_share=0.4)) == []
    on_gpu = changed(slow, workers=16, device="cuda", decode_share=0.2)
    assert "run.device_views=always: 80% of the loader's time" in advice(on_gpu)[0]
    assert advice(changed(on_gpu, device_views=True)) == []
    bf16 = changed(quiet, bf16_step_seconds=0.05)
    assert advice(bf16) == ["run.precision=bf16: a step took 0.05 s instead of 0.1 s"]
    assert advice(replace(slow, then=bf16)) == [*advice(slow), f"for highres: {advice(bf16)[0]}"]
    assert advice(changed(bf16, bf16_step_seconds=0.2)) == []
    tight = changed(quiet, peak=95, room=100)
    assert "a smaller optim.batch_size: a step takes 95%" in advice(tight)[0]
    uneven = changed(quiet, step_seconds=1.0, loader_seconds=0.1, images_per_s=(50.0, 90.0, 99.0))
    assert "while nothing else runs" in advice(uneven)[0]


def changed(made: Plan, **figures: object) -> Plan:
    """The plan with other figures, wherever in it they are."""
    parts = {name: getattr(made, name) for name in ("pace", "reading", "memory")}
    for name, part in parts.items():
        own = {key: figures.pop(key) for key in list(figures) if hasattr(part, key)}
        parts[name] = replace(part, **own)
    return replace(made, **parts, **figures)


def test_bf16_is_measured_where_the_device_has_it(
    made: Plan, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (made.bf16_step_seconds is None) == (choose_precision("auto", torch.device("cpu")) is None)
    monkeypatch.setattr(forecast, "choose_precision", lambda precision, device: torch.bfloat16)
    assert (plan(config(pictures, tmp_path), steps=1).bf16_step_seconds or 0) > 0


def test_large_photos_are_measured_upright(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for n in range(6):
        cv2.imwrite(str(tmp_path / "photos" / f"{n}.jpg"), np.full((300, 500, 3), 40 * n, np.uint8))
    made = plan(config(tmp_path / "photos", tmp_path), steps=1)  # fewer images than a batch, and without labels
    assert made.reading.short_side == 300 and made.evaluations == 0


@pytest.mark.parametrize(("more", "message"), [
    (["data.path="], "data.path is not set"),
    (["data.path=/no/such/folder"], "data.path"),
    (["run.device=cuda:7"], "run.device=cuda:7"),
    (["optim.lrr=1"], "did you mean optim.lr?"),
    (["eval.train=somewhere"], "eval.train and eval.test go together"),
    (["highres.length=4 steps", "highres.global_size=30"], "in the phase of highres.length=4 steps: views.global_size=30"),
    (["json=/no/such/folder/plan.json"], "there is no folder /no/such/folder"),
    (["run.dir=/proc/none"], "/proc"),
])  # fmt: skip
def test_mistakes_are_one_line(
    more: list[str], message: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *TINY, f"data.path={pictures}", f"run.dir={tmp_path / 'run'}", *more]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("dinolab: ") and message in last and list(tmp_path.iterdir()) == []


def test_no_steps_are_refused(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"data.path={pictures}", "steps=0"]) == 2
    assert capsys.readouterr().err == "dinolab: steps=0: out of range, 1 or more\n"
    with pytest.raises(UserError, match="steps=0: a plan needs 1 step or more"):
        plan(config(pictures, tmp_path), steps=0)


def test_torchrun_is_refused(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="torchrun"):
        plan(config(pictures, tmp_path), steps=1)


def test_durations_in_words() -> None:
    spoken = [duration(s) for s in (0.04, 89.9, 95, 3599, 5400, 100_000, 400_000)]
    assert spoken == ["0.0 s", "89.9 s", "1 min 35 s", "59 min 59 s", "1 h 30 min", "27 h 47 min", "4 days 15 h"]
    assert [duration(s) for s in (119.6, 3599.7, 7199.0)] == ["2 min 0 s", "60 min 0 s", "2 h 0 min"]
