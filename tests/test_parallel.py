"""One run, whatever the number of processes."""

from pathlib import Path

import pytest
import torch

from dinolab.parallel import processes
from tests.pictures import make_folder
from tests.processes import launch
from tests.steps import BATCH, EXACT, STEMS, WHOLE, run_all


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def alone(images: Path) -> dict:
    """What one process makes, by the size of micro-batches and the case."""
    return {micro: run_all(images, EXACT | WHOLE, micro) for micro in (0, BATCH // 2)}


def many(images: Path, out: Path, world: int, names: list[str], more: str, machine: int | None = None) -> dict:
    processes = launch(world, ["-m", "tests.steps", str(images), str(out), ",".join(names), more], machine)
    assert [p.wait(timeout=300) for p in processes] == [0] * world
    return torch.load(out)


def assert_same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=0, atol=1e-8, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(("name", "expected"), [("cpu", []), ("cuda", []), ("cuda:1", [1])])
def test_a_numbered_gpu_becomes_the_current_one(monkeypatch, name, expected):
    made: list[int] = []
    monkeypatch.setattr(torch._C, "_cuda_setDevice", made.append, raising=False)
    with processes(torch.device(name)):
        assert made == expected


@pytest.mark.parametrize("name", EXACT)
def test_micro_batches_make_the_whole_batchs_step(alone, name):
    assert alone[0][name]["losses"].isfinite().all()
    assert_same(alone[0][name], alone[BATCH // 2][name])


def test_steps_train(alone):
    for made in alone[0].values():
        assert (made["losses"][0] - made["losses"][-1]).abs().max() > 1e-3
        pairs = [(t, made.get(name.replace("student", "teacher"))) for name, t in made.items() if "student" in name]
        assert any(theirs is None or not torch.equal(ours, theirs) for ours, theirs in pairs)


def test_checkpointed_activations_change_nothing(images, alone):
    assert_same(alone[0]["activations"], run_all(images, {"": ["method=dinov2"]}, 0)[""])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", [*EXACT, *WHOLE])
def test_a_gpu_makes_the_step_of_the_cpu(images, alone, name):
    """The first step within rounding of the pixels, which are float32; later ones less closely, since Adam and batch norm multiply it.

    All random numbers are the same. A step moves a parameter by up to 3e-3.
    """
    made, cpu = run_all(images, {name: [*(EXACT | WHOLE)[name], "run.device=cuda"]}, 0)[name], alone[0][name]
    assert made.keys() == cpu.keys()
    torch.testing.assert_close(made["losses"][0], cpu["losses"][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(made.pop("losses"), cpu["losses"], rtol=1e-3, atol=1e-4)
    for key, tensor in made.items():
        torch.testing.assert_close(tensor.cpu(), cpu[key], rtol=1e-3, atol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize(("world", "sharding", "machine", "names"), [
    (2, "full", None, [*EXACT, *WHOLE]),
    (2, "none", None, ["dino", "koleo"]),
    (4, "hybrid", 2, ["dinov2", "koleo"]),
])  # fmt: skip
def test_several_processes_make_the_step_of_one(images, alone, tmp_path, world, sharding, machine, names):
    made = many(images, tmp_path / "out.pt", world, names, f"run.sharding={sharding}", machine)
    for name in names:
        assert_same(alone[0][name], made[0][name])
        if world == 2:
            assert_same(alone[BATCH // 2][name], made[BATCH // 4][name])


@pytest.mark.slow
@pytest.mark.usefixtures("starter_file")
def test_a_stem_is_the_same_in_two_processes(images, tmp_path):
    made, alone = many(images, tmp_path / "out.pt", 2, list(STEMS), "run.sharding=full"), run_all(images, STEMS, 0)
    for name in STEMS:
        assert_same(alone[name], made[0][name])
