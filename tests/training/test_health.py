import math

import pytest
import torch

from dinolab.methods.dinov2 import DINOv2
from dinolab.methods.figures import effective_rank, feature_figures, target_figures
from dinolab.training.health import WINDOW, Alarms

LOG_K = math.log(100)
WELL = {
    "teacher_entropy": 2.0,
    "kl": 0.5,
    "marginal_entropy": 4.0,
    "effective_rank": 20.0,
    "koleo": 0.5,
    "log_k": LOG_K,
}


def alarms_after(**changes: float) -> list[str]:
    watch, said = Alarms(DINOv2.ALARMS, patience=0), []
    for step in range(3 * WINDOW):
        said += watch.look({"step": step, **WELL, **changes})
    return said


@pytest.mark.parametrize(("changes", "start"), [
    ({"kl": LOG_K - 2.0}, "flat"),
    ({"marginal_entropy": 0.01}, "collapse"),
    ({"effective_rank": 1.1}, "rank one"),
    ({"koleo": math.inf}, "KoLeo is infinite"),
])  # fmt: skip
def test_each_trouble_is_said_once_with_its_remedy(changes: dict[str, float], start: str) -> None:
    (said,) = alarms_after(**changes)
    assert said.startswith(start) and "Remedy:" in said


def test_a_healthy_run_and_a_passing_trouble_say_nothing() -> None:
    assert alarms_after() == []
    watch = Alarms(DINOv2.ALARMS, patience=0)
    lines = [{"step": i, **WELL, "effective_rank": 1.0 if i % 3 else 9.0} for i in range(20)]
    assert [said for line in lines for said in watch.look(line)] == []
    early = Alarms(DINOv2.ALARMS, patience=1000)
    assert [early.look({"step": i, **WELL, "effective_rank": 1.0}) for i in range(20)] == [[]] * 20


def test_a_log_without_a_rank_raises_no_alarm_about_it() -> None:
    watch = Alarms(DINOv2.ALARMS, patience=0)
    line = {key: value for key, value in WELL.items() if key != "effective_rank"}
    assert [watch.look({"step": step, **line}) for step in range(3 * WINDOW)] == [[]] * 3 * WINDOW


def test_effective_rank() -> None:
    x = torch.randn(500, 1) @ torch.randn(1, 8)
    assert effective_rank(x) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.randn(2000, 8)) > 7.8
    assert effective_rank(torch.ones(10, 8)) == 0
    assert effective_rank(x + 100) == pytest.approx(1, abs=1e-2)  # the mean does not count


def test_figures_of_planted_targets() -> None:
    same = torch.zeros(2, 8, 4)
    same[..., 2] = 1
    found = target_figures([same])
    assert found["teacher_entropy"] == 0 and found["marginal_entropy"] == 0
    assert found["prototypes_used"] == 1 / 4
    even = torch.eye(4).repeat(2, 2, 1)
    found = target_figures([even[:, :5], even[:, 5:]])
    assert found["marginal_entropy"] == pytest.approx(math.log(4)) and found["prototypes_used"] == 1
    assert target_figures([torch.full((2, 8, 4), 0.25)])["teacher_entropy"] == pytest.approx(math.log(4))
    assert feature_figures([torch.randn(2, 5, 16), torch.randn(2, 3, 16)])["effective_rank"] > 8
