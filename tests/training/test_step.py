"""A step never waits for the device: nothing in it depends on values that the host would have to read back."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dinolab.data.loader import batches
from dinolab.data.sources import open_source
from dinolab.precision import autocast, choose_precision
from dinolab.recipes import load_config
from dinolab.runs.build import assemble, needs_of
from dinolab.training.loop import train_step
from tests.pictures import TINY, fit_words, make_folder

READS_BACK = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "equal",
    "lift_fresh",
)  # the last: torch.tensor(...)
VARIANTS = [
    ["method=dino", "model.drop_path_rates=rising", "optim.clip_by=parameter"],
    ["method=dino", "loss.targets=sinkhorn", "head.batch_norm=true"],
    ["method=dinov2", "model.drop_path=0.4", "model.layerscale=1e-5", "model.registers=2"],
    ["method=dinov2", "loss.targets=centring", "run.micro_batch=2", "model.ffn=swiglu"],
    ["method=dinov2", "loss.ibot=0", "optim.clip=0"],
    [
        "method=dinov2",
        "ibot_head.separate=false",
        "head.train_norms=true",
        "loss.freeze_by=lr",
        "optim.clip_by=network",
    ],
    ["method=dino", "loss.compare=infonce", "head.predictor=true", "optim.name=lars"],
    ["method=swav", "loss.queue=8", "loss.queue_start=0 steps"],
    ["method=deepcluster", "clusters.number=5"],
    ["method=obow", "words.number=16"],
    ["method=supervised"],
]


class NoReadingBack(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert not any(name.startswith(word) for word in READS_BACK), f"{name} makes the host wait for the device"
        if name.startswith(("index", "_index")):
            indices = args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
            assert all(getattr(i, "dtype", None) != torch.bool for i in indices), f"{name} by a mask counts on the host"
        return func(*args, **(kwargs or {}))


def steps(folder, words: list[str], number: int, device: str):
    """Yields functions that each make one step; their views are on the device."""
    cfg = load_config(
        None, fit_words([*TINY, f"data.path={folder}", f"run.device={device}", "optim.length=9 steps", *words])
    )
    source = open_source(cfg.data.path)
    phase, where, method, optimizer = assemble(cfg, source)
    method.train()
    precision = autocast(where, choose_precision("auto", where))
    for step, micro in enumerate(batches(source, cfg, 0, number, workers=0, pin=device == "cuda", needs=needs_of(cfg))):
        views = [v.to(where) for v in micro]
        s = phase(step)
        yield lambda views=views, s=s: train_step(method, optimizer, views, s, cfg.optim, precision)


@pytest.mark.parametrize("words", VARIANTS, ids=" ".join)
def test_a_step_reads_nothing_back(tmp_path, words):
    first, second = steps(make_folder(tmp_path / "images", 12), words, 2, "cpu")
    first()  # constants are made and kept
    with NoReadingBack():
        second()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks CUDA itself")
@pytest.mark.parametrize("words", VARIANTS, ids=" ".join)
def test_a_step_on_a_gpu_does_not_synchronise(tmp_path, words):
    first, second = steps(make_folder(tmp_path / "images", 12), words, 2, "cuda")
    first()
    torch.cuda.set_sync_debug_mode("error")
    try:
        second()
    finally:
        torch.cuda.set_sync_debug_mode("default")
