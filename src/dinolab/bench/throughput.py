"""Inference speed in images/s by architecture and patch size, and the share of the device's own speed that it reaches."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from dinolab.bench.attention import nearest, parse_model
from dinolab.bench.common import Row, Setting, matmul, measure, memory_in_use, share_of_matmul
from dinolab.bench.report import TIMES, Columns, bars, collect, report
from dinolab.errors import UserError
from dinolab.models.attention import choose_backend
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.precision import autocast

MODELS = ("tiny/16", "small/16", "small/14", "small/8", "base/16")
BATCH = {"cuda": 64, "mps": 8, "cpu": 8}
COLUMNS: Columns = {
    "model": ("ViT", ""),
    "params_m": ("parameters, M", ".1f"),
    "tokens": ("tokens", ",d"),
    "gflops": ("GFLOPs an image", ".1f"),
    "batch": ("batch", "d"),
    **TIMES,
    "matmul_share": ("share of matmul speed", ".1%"),
}


def bench(models: Sequence[str] | None, size: int, batch: int | None, setting: Setting, out: Path) -> None:
    """Measure inference of each model; see docs/bench.md.

    Args:
        models: size and patch, such as "small/16"; None takes a choice of them.
        size: side of the images in pixels.
        batch: images at once; None chooses by device.
        setting: device, precision and time.
        out: folder for throughput.json and throughput.png.

    Raises:
        UserError: an unknown model, or a size that is no multiple of its patch.
    """
    parsed = [(name, parse_model(name)) for name in models or MODELS]
    for name, model in parsed:
        if size % model.patch_size:
            raise UserError(
                f"size={size} is not a multiple of the patch of {name}; {nearest(size, model.patch_size)} is"
            )
    out.mkdir(parents=True, exist_ok=True)
    batch = batch or BATCH[setting.device.type]
    found = collect((infer(*task, size, batch, setting) for task in parsed), ("model",))
    title = f"Inference at {size} x {size} pixels, {setting.words}"
    panels = {key: COLUMNS[key] for key in ("images_per_s", "matmul_share", "peak_memory_mb")}
    bars(found, [row["model"] for row in found], panels, title, out / "throughput.png")
    report("throughput", title, found, COLUMNS, out, setting)


def infer(name: str, model: Model, size: int, batch: int, setting: Setting) -> Row:
    """Measure one model, and return its row; a large matrix product takes turns with it."""
    device, precision = setting.device, autocast(setting.device, setting.autocast)
    product, product_flops = matmul(device, setting.dtype)
    before = memory_in_use(device)
    vit = ViT(model, size, choose_backend("auto", device)).to(device).eval()
    images = torch.randn(batch, 3, size, size, device=device)

    def forward() -> None:
        with torch.no_grad(), precision:
            vit([images])

    timings = measure({"forward": forward, "matmul": product}, device, setting.seconds, before)
    flops = flops_of_forward(model, size)
    return {
        "model": name,
        "size": size,
        "params_m": sum(p.numel() for p in vit.parameters()) / 1e6,
        "tokens": vit.pos_embed.shape[1],
        "gflops": flops / 1e9,
        "batch": batch,
        **timings["forward"].row(batch),
        "matmul_share": share_of_matmul(timings["forward"], batch * flops, timings["matmul"], product_flops),
        "matmul_tflops": None if timings["matmul"].failure else product_flops / timings["matmul"].median / 1e12,
    }


def flops_of_forward(model: Model, size: int) -> int:
    """Count the floating-point operations of one image; a multiplication and an addition are two.

    They are counted with plain attention, since the counter does not know every fused kernel, and on the meta device, where nothing
    is computed.
    """
    with torch.device("meta"):
        vit = ViT(model, size, "math")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vit([torch.empty(1, 3, size, size, device="meta")])
    return counter.get_total_flops()
