"""Speed and memory of a whole training step: variants of a config that differ from it in one option each."""

import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import repeat
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.compiler import config as compiler
from torch.utils.flop_counter import FlopCounterMode

from dinolab.bench.common import Row, Setting, matmul, measure, memory_in_use, share_of_matmul
from dinolab.bench.report import TIMES, Columns, bars, collect, report
from dinolab.models.attention import BACKENDS, choose_backend
from dinolab.models.encoder import Features
from dinolab.options import Config
from dinolab.parallel import choose_device
from dinolab.precision import autocast, choose_precision, has_bf16
from dinolab.recipes import load_config
from dinolab.runs.build import build_method
from dinolab.runs.noise import random_batch, values
from dinolab.training.loop import train_step
from dinolab.training.optim import make_optimizer

RECIPE, CPU_BATCH = "dinov2_vits16", 8
CROP_BY_CROP, AS_CONFIGURED = "crop by crop", "as configured"
COUNTED = 8  # images with which the operations of a step are counted, at most
COLUMNS: Columns = {
    "variant": ("variant", ""),
    "batch": ("batch", "d"),
    **TIMES,
    "times_as_fast": ("times as fast as configured", ".2f"),
    "matmul_share": ("share of matmul speed", ".1%"),
}


def bench(recipe: str | None, words: Sequence[str], seconds: float, out: Path) -> None:
    """Measure a training step on images of noise, as configured and with one option changed at a time; see docs/bench.md.

    Args:
        recipe: its name or file; None takes RECIPE, on a CPU with batches of 8.
        words: options of the config, "key=value".
        seconds: for each variant.
        out: folder for step.json and step.png.

    Raises:
        UserError: the config is not valid.
    """
    device = choose_device(load_config(recipe or RECIPE, words).run.device)
    if recipe is None and device.type == "cpu":
        words = [f"optim.batch_size={CPU_BATCH}", *words]
    recipe = recipe or RECIPE
    cfg = load_config(recipe, words)
    setting = Setting(device, choose_precision(cfg.run.precision, device), seconds)
    out.mkdir(parents=True, exist_ok=True)
    configs = {AS_CONFIGURED: cfg, CROP_BY_CROP: cfg}
    configs |= {word: load_config(recipe, [*words, word]) for word in changes(cfg, setting)}
    found = collect(compare(configs, setting), ("variant",))
    title = (
        f"A step of {recipe} with {cfg.optim.batch_size} images, {setting.words}, attention {backend_of(cfg, device)}"
    )
    panels = {key: COLUMNS[key] for key in ("times_as_fast", "images_per_s", "peak_memory_mb", "matmul_share")}
    bars(found, [row["variant"] for row in found], panels, title, out / "step.png")
    report("step", title, found, COLUMNS, out, setting)


def changes(cfg: Config, setting: Setting) -> list[str]:
    """Return words "key=value"; each makes a variant that differs from the config in one option."""
    tried: dict[str, tuple[object, Sequence[object]]] = {
        "model.drop_path": (cfg.model.drop_path, [0.0, 0.1, 0.4]),
        "run.precision": ("bf16" if setting.autocast else "fp32", ["fp32", *["bf16"] * has_bf16(setting.device)]),
        "run.attention": (backend_of(cfg, setting.device), BACKENDS),
        "run.checkpoint_activations": (cfg.run.checkpoint_activations, [False, True]),
        "run.compile": (cfg.run.compile, [False, True]),  # last: a CPU keeps the compiler in memory from then on
    }
    return [f"{key}={str(value).lower()}" for key, (own, values) in tried.items() for value in values if value != own]


def backend_of(cfg: Config, device: torch.device) -> str:
    """Return the attention backend that a config uses on a device."""
    return choose_backend(cfg.run.attention, device)


def compare(configs: dict[str, Config], setting: Setting) -> Iterator[Row]:
    """Measure the variants, and yield their rows. They take turns on the same images, with the same weights and optimizer."""
    cfg, device = configs[AS_CONFIGURED], setting.device
    autocasts = {name: choose_precision(config.run.precision, device) for name, config in configs.items()}
    matmuls = {dtype: matmul(device, dtype or torch.float32) for dtype in set(autocasts.values())}
    flops = cfg.optim.batch_size * flops_per_image(cfg, device)
    before = memory_in_use(device)
    views = random_batch(cfg, device)
    weights = build_method(cfg, device).train()
    optimizer = make_optimizer(weights.student, cfg.optim)
    s = values(cfg)

    def step_of(name: str) -> Callable[[], object]:
        print(f"warming up: {name}", file=sys.stderr)
        method = build_method(configs[name], device).train()
        method.load_state_dict(weights.state_dict(keep_vars=True), assign=True)
        if name == CROP_BY_CROP:
            for network in method.networks:
                network["backbone"] = CropByCrop(network["backbone"], len(views[0].indices))
        precision = autocast(device, autocasts[name])
        return lambda: train_step(method, optimizer, views, s, cfg.optim, precision)

    variants: dict[Hashable, Callable[[], object]] = {name: when_called(partial(step_of, name)) for name in configs}
    variants |= {dtype: product for dtype, (product, _) in matmuls.items()}
    with compiler.patch(recompile_limit=8 * len(configs)):  # type: ignore[attr-defined]  # all compiled blocks share it
        timings = measure(variants, device, setting.seconds, before)
    for name in configs:
        dtype, timing, own = autocasts[name], timings[name], timings[AS_CONFIGURED]
        yield {
            "variant": name,
            "batch": cfg.optim.batch_size,
            **timing.row(cfg.optim.batch_size),
            "times_as_fast": None if timing.failure or own.failure else timing.times_as_fast_as(own),
            "matmul_share": share_of_matmul(timing, flops, timings[dtype], matmuls[dtype][1]),
        }


def when_called(make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    """Make a variant when it is first called, so that an error in making it is counted as that variant's failure alone."""
    made = cache(make)
    return lambda: made()()


def flops_per_image(cfg: Config, device: torch.device) -> float:
    """Count the floating-point operations of a step without stochastic depth, divided by the number of images.

    A multiplication and an addition are two operations. They are counted with plain attention, since the counter does not know
    every fused kernel.
    """
    images = min(COUNTED, cfg.optim.batch_size)
    cfg = replace(
        cfg,
        model=replace(cfg.model, drop_path=0.0),
        optim=replace(cfg.optim, batch_size=images),
        run=replace(cfg.run, micro_batch=0, attention="math", compile=False),
    )
    method = build_method(cfg, device).train()
    views = random_batch(cfg, device)
    with FlopCounterMode(display=False) as counter:
        for v, t in zip(views, method.targets(views, values(cfg))):
            method.loss(v, t, values(cfg))[0].backward()
    return counter.get_total_flops() / images


class CropByCrop(nn.Module):
    """A backbone that processes one crop of each of B images at a time, as if the crops could not be packed together."""

    def __init__(self, vit: nn.Module, images: int):
        super().__init__()
        self.vit, self.images, self.pixels = vit, images, vit.pixels

    def forward(self, crops: Sequence[Tensor], masks: Sequence[Tensor | None] | None = None) -> list[Features]:
        return [self.one_size(c, m) for c, m in zip(crops, masks or [None] * len(crops))]

    def one_size(self, crops: Tensor, mask: Tensor | None) -> Features:
        """Process crops of one size, (n * B, 3, S, S), in n parts."""
        masks = repeat(None) if mask is None else mask.split(self.images)
        views = [self.vit([c], [m])[0] for c, m in zip(crops.split(self.images), masks)]
        return Features(*map(torch.cat, zip(*views)))
