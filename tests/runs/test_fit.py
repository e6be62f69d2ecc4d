"""run.micro_batch=auto: what is found, that it is kept, and that the search leaves no trace in the run."""

from pathlib import Path

import pytest
import torch

from dinolab.cli import main
from dinolab.data.sources import open_source
from dinolab.errors import UserError
from dinolab.fields import AUTO
from dinolab.recipes import load_config
from dinolab.runs import fit
from dinolab.runs.fit import check_micro_batch, next_size, settle_micro_batch
from dinolab.runs.rig import Rig
from tests.pictures import TINY, make_folder

SHORT = ["optim.length=4 steps", "eval.every=0 steps", "model.drop_path=0"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps take 100 bytes and 10 an image, of 1000; returns the micro-batches that were measured."""
    measured: list[int] = []

    def step_peak(rig: Rig, images: int, micro: int) -> int:
        measured.append(micro)
        return 100 + 10 * micro * (rig.cfg.views.global_size // 16) ** 2

    monkeypatch.setattr(fit, "step_peak", step_peak)
    monkeypatch.setattr(fit, "room", lambda device: (1000, 1200))
    return measured


def settled(pictures: Path, *more: str, began: list[str] | None = None) -> tuple[int, int, list[str]]:
    def config(words: list[str]):
        return load_config(None, [*TINY, f"data.path={pictures}", "optim.batch_size=192", *words])

    before = None if began is None else config(began)
    cfg, said = settle_micro_batch(config(list(more)), open_source(str(pictures)), before)
    return cfg.run.micro_batch, cfg.highres.micro_batch, said


def test_the_largest_that_fits_is_found_by_growing_steps(pictures: Path, peaks: list[int]) -> None:
    micro, _, said = settled(pictures, "run.micro_batch=auto")
    assert peaks == [4, 4, 8, 32, 64] and micro == 64  # 100 + 10 x 96 bytes are more than 900
    assert said == ["run.micro_batch=auto: 64 images at a time; a step takes 0.0 GB of the 0.0 GB that are available"]


def test_each_phase_has_its_own_and_numbers_stay(pictures: Path, peaks: list[int]) -> None:
    high = ["highres.length=4 steps", "highres.global_size=32"]
    assert settled(pictures, "run.micro_batch=auto", *high)[:2] == (64, 16)
    assert settled(pictures, "run.micro_batch=auto", "highres.micro_batch=8", *high)[:2] == (64, 8)
    assert settled(pictures, "run.micro_batch=24", "highres.micro_batch=auto", *high)[:2] == (24, 16)
    assert settled(pictures, "run.micro_batch=24", *high) == (24, 0, [])


def test_a_resumed_run_keeps_its_own(pictures: Path, peaks: list[int]) -> None:
    for number in (0, 48):
        micro, _, said = settled(pictures, "run.micro_batch=auto", began=[f"run.micro_batch={number}"])
        assert micro == (number or 192) and "as the run began" in said[0] and peaks == []
    high = ["highres.length=4 steps", "highres.global_size=32"]  # added to a run that had none
    assert settled(pictures, "run.micro_batch=auto", *high, began=["run.micro_batch=48"])[:2] == (48, 16)


def test_a_step_that_does_not_fit_ends_the_search(
    pictures: Path, peaks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = fit.step_peak

    def full_above(limit: int) -> None:
        def step_peak(rig: Rig, images: int, micro: int) -> int:
            if micro > limit:
                raise torch.OutOfMemoryError
            return planned(rig, images, micro)

        monkeypatch.setattr(fit, "step_peak", step_peak)

    full_above(16)
    assert settled(pictures, "run.micro_batch=auto")[0] == 8
    full_above(2)
    with pytest.raises(UserError, match=r"out of memory with 4 images at a time: set run\.micro_batch=2 or less"):
        settled(pictures, "run.micro_batch=auto")


def test_no_jump_into_the_unknown() -> None:
    assert next_size([(2, 100)], [2, 1022], 1e4) is None  # it could take 51,100 bytes
    assert next_size([(2, 100)], [2, 1022], 1e5) == 1022
    assert next_size([(4, 900)], [4, 8], 1000) == 8  # small: most of it may not depend on the size
    assert next_size([(4, 900), (8, 901)], [4, 8, 16, 32, 64], 1000) == 32  # at most four times as many
    assert next_size([(4, 900), (8, 980)], [4, 8, 16, 32], 1000) is None
    assert next_size([(4, 100), (8, 200)], [4, 8], 1000) is None


def test_the_run_is_that_of_the_number_and_keeps_it(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search is real here, in little memory; whatever it finds, the run must not differ from one that was told the number."""
    words = [*TINY, *SHORT, f"data.path={pictures}"]
    assert main(["train", *words, f"run.dir={tmp_path / 'auto'}", "run.micro_batch=auto"]) == 0
    found = load_config(tmp_path / "auto" / "config.yaml").run.micro_batch
    assert found in (2, 4, 8)
    assert f"run.micro_batch=auto: {found} images at a time" in (tmp_path / "auto" / "log.txt").read_text()
    assert main(["train", *words, f"run.dir={tmp_path / 'told'}", f"run.micro_batch={found}"]) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("auto", "told")]
    assert weights[0] == weights[1]


def test_words_and_refusals(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_config(None, ["run.micro_batch=auto"]).run.micro_batch == AUTO
    for word in ("run.micro_batch=-2", "run.micro_batch=most"):
        with pytest.raises(UserError, match=r"run\.micro_batch"):
            load_config(None, [word])
    assert main(["train", "--help", "run.micro_batch"]) == 0
    assert ", or auto" in capsys.readouterr().out
    assert main(["bench", "step", *TINY, "run.micro_batch=auto", f"out={tmp_path}"]) == 2
    assert "run.micro_batch=auto is for dinolab train and plan" in capsys.readouterr().err
    monkeypatch.setattr(fit, "can_measure", lambda device: False)
    with pytest.raises(UserError, match=r"run\.micro_batch=auto: memory cannot be measured on cpu here; give a number"):
        check_micro_batch(load_config(None, [*TINY, "run.micro_batch=auto"]), open_source(str(pictures)))
