"""Speed and memory of a whole ViT with each attention kernel, by image size."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator

from dinolab.bench.common import Row, Setting, measure, memory_in_use
from dinolab.bench.report import TIMES, Columns, collect, report
from dinolab.errors import UserError
from dinolab.models.attention import BACKENDS
from dinolab.models.vit import SIZES, ViT
from dinolab.options import Model
from dinolab.plotting import COLOURS, MARKERS, STYLES, new_figure, open_frame, save
from dinolab.precision import autocast

MODELS = ("small/16", "small/8")
BATCH = {"cuda": 64, "mps": 8, "cpu": 1}
SIDES = (224, 336, 448, 518)  # pixels; 518 is a usual size for training at high resolution
COLUMNS: Columns = {
    "model": ("ViT", ""),
    "size": ("pixels", "d"),
    "tokens": ("tokens", ",d"),
    "batch": ("batch", "d"),
    "pass": ("pass", ""),
    "backend": ("attention", ""),
    **TIMES,
    "times_as_fast_as_math": ("times as fast as math", ".2f"),
}


def bench(
    models: Sequence[str] | None,
    sizes: Sequence[int] | None,
    batch: int | None,
    backends: Sequence[str] | None,
    setting: Setting,
    out: Path,
) -> None:
    """Measure inference and training of each model at each image size with each attention backend; see docs/bench.md.

    Args:
        models: size and patch, such as "small/16"; None takes small/16 and small/8.
        sizes: sides of the images in pixels, multiples of every patch; None takes the multiples nearest to the usual ones.
        batch: images at once; None chooses by device.
        backends: some of models.attention.BACKENDS; None takes all.
        setting: device, precision and time.
        out: folder for attention.json and attention.png.

    Raises:
        UserError: an unknown model or backend, or a size that is no multiple of the patch.
    """
    backends = backends or BACKENDS
    for name in backends:
        if name not in BACKENDS:
            raise UserError(f"backends={name}: must be one of {', '.join(BACKENDS)}")
    tasks = [
        (name, model, size)
        for name in models or MODELS
        for model in [parse_model(name)]
        for size in sides(model, sizes)
    ]
    out.mkdir(parents=True, exist_ok=True)
    batch = batch or BATCH[setting.device.type]
    rows = (row for task in tasks for row in compare(*task, batch, backends, setting))
    found = collect(rows, ("model", "size", "pass", "backend"))
    title = f"Attention kernels in whole ViTs, {setting.words}"
    plot(found, title, out / "attention.png")
    report("attention", title, found, COLUMNS, out, setting)


def parse_model(text: str) -> Model:
    """Convert "small/16" to Model(size="small", patch_size=16). Raises UserError for an unknown model."""
    size, _, patch = text.partition("/")
    if size in SIZES and patch.isdecimal() and 1 <= int(patch) <= 128:
        return Model(size=size, patch_size=int(patch))
    known = [f"{size}/{patch}" for size in SIZES for patch in (8, 14, 16)]
    near = difflib.get_close_matches(text, known, 3, 0.5) or known
    raise UserError(f"models={text}: no such model; write SIZE/PATCH, for example {', '.join(near)}")


def sides(model: Model, wanted: Sequence[int] | None) -> list[int]:
    """Return the sizes that the user wants, or the usual ones rounded to multiples of the patch. Raises UserError."""
    patch = model.patch_size
    if wanted is None:
        return [nearest(side, patch) for side in SIDES]
    for side in wanted:
        if side % patch:
            raise UserError(
                f"sizes={side} is not a multiple of the patch of {model.size}/{patch}; {nearest(side, patch)} is"
            )
    return list(wanted)


def nearest(side: int, patch: int) -> int:
    """Return the multiple of the patch that is nearest to the side."""
    return max(patch, round(side / patch) * patch)


def compare(name: str, model: Model, size: int, batch: int, backends: Sequence[str], setting: Setting) -> Iterator[Row]:
    """Measure one model at one size, and yield its rows; the backends share the weights and take turns."""
    device, precision = setting.device, autocast(setting.device, setting.autocast)
    before = memory_in_use(device)
    vit = ViT(model, size).to(device)
    images = torch.randn(batch, 3, size, size, device=device)

    def inference(backend: str) -> None:
        vit.attention_backend = backend
        with torch.no_grad(), precision:
            vit([images])

    def training(backend: str) -> None:
        vit.attention_backend = backend
        with precision:
            (features,) = vit([images])
            total = features.cls.sum() + features.patches.sum()
        torch.autograd.grad(total, list(vit.parameters()), allow_unused=True)  # unlike backward() it keeps no gradients

    passes: dict[str, Callable[[str], None]] = {"inference": inference, "training": training}
    for kind, run in passes.items():
        timings = measure({name: partial(run, name) for name in backends}, device, setting.seconds, before)
        for backend, timing in timings.items():
            tokens = vit.pos_embed.shape[1]
            row = {"model": name, "size": size, "tokens": tokens, "batch": batch, "pass": kind, "backend": backend}
            row |= timing.row(batch)
            math = timings.get("math")
            if math and not (math.failure or timing.failure):
                row["times_as_fast_as_math"] = timing.times_as_fast_as(math)
            if backend == "flash" and not timing.failure and not takes_flash(setting):
                row["note"] = "ran as sdpa: on a GPU, FlashAttention needs CUDA and bf16"
            yield row


def takes_flash(setting: Setting) -> bool:
    """Return whether "flash" is FlashAttention there, and not the `sdpa` that `models.attention` uses in its place."""
    return setting.device.type == "cpu" or (setting.device.type == "cuda" and setting.autocast is not None)


def plot(rows: list[Row], title: str, out: Path) -> None:
    """Draw a PNG of milliseconds over tokens: a line for each backend, a panel for inference and training of each model."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = new_figure(9.5, 0.8 + 3.2 * len(models))
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    for number, (model, kind) in enumerate(product(models, ("inference", "training")), 1):
        axes = figure.add_subplot(len(models), 2, number)
        panel = [row for row in rows if (row["model"], row["pass"]) == (model, kind)]
        draw(axes, panel)
        axes.set_title(f"ViT {model}, {kind}", fontsize=11, loc="left")
    save(figure, out)


def draw(axes: Axes, rows: list[Row]) -> None:
    """Draw one panel; a cross at the top marks a variant that could not run."""
    axes.set(xscale="log", yscale="log")
    tokens = sorted({row["tokens"] for row in rows})
    for backend, colour, style, marker in zip(BACKENDS, COLOURS, STYLES, MARKERS):
        own = [row for row in rows if row["backend"] == backend]
        measured = [(row["tokens"], row["ms"] / row["batch"]) for row in own if "ms" in row]
        if measured:
            axes.plot(*zip(*measured), style, color=colour, marker=marker, markersize=5, label=backend)
        if failed := [row["tokens"] for row in own if "ms" not in row]:
            at_top = axes.get_xaxis_transform()
            axes.plot(failed, [0.96] * len(failed), "x", color=colour, transform=at_top, label=f"{backend}: no result")
    axes.set_xticks(tokens, [f"{n:,}" for n in tokens])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
    axes.set_xlabel("tokens an image", fontsize=9)
    axes.set_ylabel("ms an image", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.legend(fontsize=8, frameon=False)
    open_frame(axes)
