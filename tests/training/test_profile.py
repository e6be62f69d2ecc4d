"""A profile on request changes nothing of the run, and says where the time went."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.autograd.profiler_util import DeviceType

import dinolab
from dinolab.recipes import load_config
from dinolab.training.profile import PARTS, WARM_UP, span, table_of_parts
from tests.pictures import TINY, make_folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("pictures"))


def train(pictures: Path, run: Path, *more: str) -> Path:
    return dinolab.train(load_config(None, [*TINY, f"data.path={pictures}", f"run.dir={run}", *more]))


def trace(run: Path) -> list[dict]:
    with gzip.open(run / "profile" / "trace.json.gz") as file:
        return json.load(file)["traceEvents"]


def names(run: Path) -> list[str]:
    return [event.get("name", "") for event in trace(run)]


def test_profile_leaves_the_run_as_it_is(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dinolab.training.profile.OPERATORS", 1000
    )  # which come first depends on what else the machine does
    plain, watched = train(pictures, tmp_path / "plain"), train(pictures, tmp_path / "watched", "run.profile=4")
    for name, tensor in load_file(plain / "model.safetensors").items():
        assert torch.equal(tensor, load_file(watched / "model.safetensors")[name]), name
    assert not (plain / "profile").exists()
    found = names(watched)
    assert [found.count(part) for part in PARTS] == [4] * len(PARTS)
    assert "aten::linear" in found
    table = (watched / "profile" / "table.txt").read_text()
    assert table.startswith("4 steps, ") and all(f"\n{part} " in table for part in [*PARTS, "rest"])
    operators = table[table.index("By operator") :]
    assert "aten::addmm" in operators and "after step" not in operators and "ProfilerStep" not in operators
    assert f"profile: {watched}/profile/table.txt" in (watched / "log.txt").read_text()


def test_micro_batches_each_have_their_part(pictures: Path, tmp_path: Path) -> None:
    run = train(pictures, tmp_path / "run", "run.profile=2", "run.micro_batch=4")
    found = names(run)
    assert [found.count(part) for part in PARTS] == [2, 2, 2, 4, 4, 2, 2]


def test_a_resumed_run_profiles_its_own_first_steps(pictures: Path, tmp_path: Path) -> None:
    run = train(pictures, tmp_path / "run", "run.save_every=4 steps")
    (run / "checkpoints" / "step_00000012").rename(tmp_path / "last")  # as if it had been killed after step 8
    assert not (run / "profile").exists()
    train(pictures, run, "run.profile=3", "run.save_every=4 steps")
    steps = sorted({name for name in names(run) if name.startswith("ProfilerStep#")})
    # four steps were left: the first ones are warm-up, and fewer than asked remain
    assert names(run).count("after step") == 12 - 8 - WARM_UP
    assert steps[0] == f"ProfilerStep#{WARM_UP}"


def test_a_run_that_ends_in_the_warm_up_says_so(pictures: Path, tmp_path: Path) -> None:
    run = train(pictures, tmp_path / "run", "run.profile=3", "optim.length=2 steps", "optim.warmup=0 steps")
    assert not (run / "profile").exists()
    assert "no profile" in (run / "log.txt").read_text() and (run / "model.safetensors").exists()


def event(name: str, start: float, end: float, kernels: tuple[float, ...] = (), annotation: bool = False) -> object:
    return SimpleNamespace(
        name=name,
        device_type=DeviceType.CPU,
        time_range=SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start),
        kernels=[SimpleNamespace(duration=d) for d in kernels],
        is_user_annotation=annotation,
    )


def test_kernels_count_for_the_part_that_launched_them() -> None:
    """A GPU's kernels, with planted events: two steps of 1 ms; backward launches from another thread."""
    events = []
    for t in (0.0, 1000.0):
        events += [
            event("ProfilerStep*", t, t + 1000, annotation=True),
            event("loss", t + 100, t + 300, (999.0,), True),
        ]
        events += [
            event("backward", t + 300, t + 700, annotation=True),
            event("after step", t + 700, t + 800, annotation=True),
        ]
        events += [event("aten::mm", t + 150, t + 160, (100.0, 20.0)), event("MmBackward", t + 400, t + 410, (300.0,))]
        events += [event("aten::item", t + 900, t + 950, (60.0,))]
    rows = {line[:19].strip(): line[19:].split() for line in table_of_parts(events).splitlines()[3:]}
    assert rows["By part of the step"[:19]][-3:] == ["CUDA", "ms", "share"]
    assert rows["loss"] == ["0.20", "20.0%", "0.12", "25.0%"]
    assert rows["backward"] == ["0.40", "40.0%", "0.30", "62.5%"]
    assert rows["after step"] == ["0.10", "10.0%", "0.00", "0.0%"]
    assert rows["rest"] == ["0.30", "30.0%", "0.06", "12.5%"]
    assert rows["data wait"] == ["0.00", "0.0%", "0.00", "0.0%"]


def test_spans_mark_nothing_while_no_profiler_watches() -> None:
    with span("loss") as mark:
        assert mark is None  # a null context; record_function would hand out itself
