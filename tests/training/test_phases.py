import math

import pytest

from dinolab.errors import UserError
from dinolab.recipes import load_config
from dinolab.training.phases import Phase, plan_phases


def schedules(*words: str, images: int = 6400) -> Phase:
    return Phase(load_config(None, ["optim.batch_size=64", "optim.length=10 epochs", *words]), images)


def test_an_epoch_is_one_pass_over_the_data() -> None:
    s = schedules(images=1000)  # 15.625 steps an epoch
    assert s.total == 156 and s.steps("1 epochs", "x") == 16 and s.steps("10%", "x") == 16
    assert s.steps("1000 epochs", "x") == s.total
    with pytest.raises(UserError, match="less than one step"):
        schedules("optim.length=0 steps")


def test_learning_rate() -> None:
    s = schedules("optim.lr=0.01", "optim.warmup=100 steps", "optim.min_lr=1e-5")
    peak = 0.01 * 64 / 256
    assert s(0)["lr"] == pytest.approx(peak / 100) and s(49)["lr"] == pytest.approx(peak / 2)
    assert s(99)["lr"] == s(100)["lr"] == pytest.approx(peak)
    assert s(s.total - 1)["lr"] == pytest.approx(1e-5)
    middle = (100 + s.total - 1) // 2
    assert s(middle)["lr"] == pytest.approx((peak + 1e-5) / 2, rel=0.01)
    assert schedules("optim.lr=0.01", "optim.lr_scaling=sqrt").peak_lr == pytest.approx(0.01 * math.sqrt(64 / 1024))
    assert schedules("optim.lr=0.01", "optim.lr_scaling=none").peak_lr == 0.01


def test_the_others() -> None:
    s = schedules("loss.teacher_temperature_warmup=200 steps", "ema.start=0.99", "loss.freeze_prototypes=1 epochs")
    last = s.total - 1
    assert (s(0)["momentum"], s(last)["momentum"]) == pytest.approx((0.99, 1.0))
    assert (s(0)["weight_decay"], s(last)["weight_decay"]) == pytest.approx((0.04, 0.4))
    assert [s(i)["teacher_temperature"] for i in (0, 100, 200, last)] == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert [sorted(s(i).frozen) for i in (0, 99, 100)] == [["prototypes"], ["prototypes"], []]
    momenta = [s(i)["momentum"] for i in range(s.total)]
    assert momenta == sorted(momenta)


def test_where_the_last_phases_schedules_begin() -> None:
    words = ["optim.batch_size=64", "optim.length=10 epochs", "ema.start=0.99", "loss.teacher_temperature_warmup=10%"]
    cfg = load_config(None, [*words, "highres.length=2 epochs"])
    first, last = plan_phases(cfg, 6400)
    before, begins = first(first.last - 1), last(last.first)
    assert begins["weight_decay"] == pytest.approx(before["weight_decay"]) == pytest.approx(0.4)
    assert begins["teacher_temperature"] == before["teacher_temperature"] == 0.07
    assert begins["momentum"] == pytest.approx(0.99) and before["momentum"] == pytest.approx(1.0)  # it begins anew
    assert (
        begins["lr"]
        < last(last.first + last.warmup)["lr"]
        == pytest.approx(last.peak_lr)
        == pytest.approx(first.peak_lr / 10)
    )
