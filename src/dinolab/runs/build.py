"""The parts of a run, made from its configuration: data, device, method, optimizer, batches."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dinolab import parallel
from dinolab.batch_norm import sync_batch_norm
from dinolab.config import parse_duration
from dinolab.data.decode import BrokenImage, read_image
from dinolab.data.device_views import Photos
from dinolab.data.loader import adaptive_batches, batches, photo_batches
from dinolab.data.samples import micro_batch
from dinolab.data.sources import open_source, stratified_split, subset
from dinolab.data.types import Needs, Source, Views
from dinolab.data.views import eval_view
from dinolab.errors import OUT_OF_MEMORY, UserError, lacking
from dinolab.machine import loaders
from dinolab.methods import METHODS
from dinolab.methods.base import Method
from dinolab.methods.pull import Pull
from dinolab.models.attention import choose_backend
from dinolab.models.backbone import Backbone, make_backbone
from dinolab.models.convnet import ConvNet
from dinolab.models.lora import add_adapters, merged
from dinolab.models.vit import ViT
from dinolab.options import Config
from dinolab.pixels import RGB
from dinolab.precision import choose_precision, name_of
from dinolab.training.optim import make_optimizer
from dinolab.training.phases import Phase
from dinolab.training.speed import checkpoint_activations, compile_blocks, keep_memory
from dinolab.weights.initial import start_from, start_stem

LOOKED_AT, COMPARED = 8, 32  # images that are compared at the start, and the side in pixels at which they are


def open_data(cfg: Config, cache: Path | None) -> Source:
    if not cfg.data.path:
        raise UserError("data.path is not set: name a folder of images, a text file of paths or a CSV, data.path=DIR")
    return open_source(cfg.data.path, cfg.data, cache)


def monitor_sources(cfg: Config, source: Source, say: Callable[[str], None]) -> tuple[Source, Source] | None:
    """Labelled train and test images for the k-NN accuracy while training; None without labels.

    `say` is called with the reason where there could be labels but they cannot be used.
    """
    if parse_duration(cfg.eval.every, "eval.every")[0] == 0:
        return None
    if bool(cfg.eval.train) != bool(cfg.eval.test):
        raise UserError("eval.train and eval.test go together: set both or neither")
    if cfg.eval.train:
        columns = replace(cfg.data, images="")  # which is the folder of data.path's images
        train, test = (
            open_source(path, columns, need_labels=True, option=option)
            for path, option in ((cfg.eval.train, "eval.train"), (cfg.eval.test, "eval.test"))
        )
    elif source.labels is None:
        say(f"no k-NN while training: {source.name} has no labels: {source.unlabelled}")
        return None
    elif len(source.classes) < 2:
        say(f"no k-NN while training: {source.name} has a single class, {source.classes[0]!r}")
        return None
    else:
        try:
            train, test = stratified_split(source, 0.2, seed=0)
        except UserError as error:  # training needs no labels, so they must not stop it
            say(f"no k-NN while training: {error}; name eval.train and eval.test")
            return None
    return subset(train, cfg.eval.max_images, seed=0), subset(test, cfg.eval.max_images, seed=0)


def needs_of(cfg: Config) -> Needs:
    """The things that the method needs of each image beside its crops."""
    return METHODS[cfg.method].needs(cfg)


def assemble(cfg: Config, source: Source) -> tuple[Phase, torch.device, Method, torch.optim.Optimizer]:
    """The first phase of a run, and what is trained in it, as they are before the first step."""
    phase = Phase(cfg, len(source))
    device = parallel.choose_device(cfg.run.device)
    method = build_method(cfg, device, source)
    return phase, device, method, make_optimizer(method.student, cfg.optim, phase.frozen)


def build_method(
    cfg: Config,
    device: torch.device,
    source: Source | None = None,
    fresh: bool = True,
    state: dict[str, Tensor] | None = None,
) -> Method:
    """The method, ready for training: on its device, and sharded where there are several processes.

    Args:
        source: the images of the run; None where a step is only measured, on RGB images.
        fresh: start with `init.weights`, if they are given, else with the pretrained weights of `model.stem`.
        state: tensors, not sharded, to start with instead.
    """
    torch.manual_seed(cfg.seed)
    pixels = source.pixels if source else RGB
    backbone = make_backbone(cfg.model, cfg.views.global_size, choose_backend(cfg.run.attention, device), pixels)
    start = prepare_start(backbone, cfg, fresh)
    method = METHODS[cfg.method].make(backbone, cfg, source)
    if state is not None:
        method.load_state_dict(state)
    try:
        method = method.to(device)
    except RuntimeError as error:
        if lacking(error) != OUT_OF_MEMORY:
            raise
        raise UserError(f"out of memory on {device}: the model alone is too large, set a smaller model.size") from error
    if device.type == "cpu":
        keep_memory()
    if cfg.run.checkpoint_activations:
        checkpoint_activations(method)
    if cfg.run.compile:
        compile_blocks(method, device)
    if parallel.world() > 1:
        sync_batch_norm(method)
        parallel.shard(method.networks, cfg.run.sharding, device, choose_precision(cfg.run.precision, device))
    if start:
        method.pull = Pull(start.to(device), cfg.init.pull)
        method.pull.watch(method.student["backbone"])
    return method


def prepare_start(backbone: Backbone, cfg: Config, fresh: bool) -> Backbone | None:
    """Do to a new backbone what the options `init.` and `model.stem` say. Returns a copy of the start, if the run pulls towards it."""
    init = cfg.init
    if init.weights and (fresh or init.pull):  # a resumed run has its weights from a checkpoint
        start_from(backbone, init.weights)
    elif fresh:
        start_stem(backbone)
    if cfg.optim.stem_lr:
        backbone.get_submodule("patch_embed.stem").requires_grad_(True)
    start = copy.deepcopy(backbone) if init.pull else None
    if init.weights and init.freeze_norms and isinstance(backbone, ConvNet):
        backbone.freeze_norms()
    if init.lora and isinstance(backbone, ViT):
        add_adapters(backbone, init.lora)
    return start


def whole_product(method: Method, cfg: Config) -> Backbone:
    """The run's product, in one piece and without adapters; all ranks call it together."""
    if parallel.world() == 1 and not cfg.init.lora:
        return method.product
    state = merged(parallel.whole(method.product.state_dict()))
    device = next(iter(state.values())).device
    with torch.device("meta"):  # the values are those of the state
        backend, pixels = choose_backend(cfg.run.attention, device), method.product.pixels
        product = make_backbone(cfg.model, cfg.views.global_size, backend, pixels)
    product.load_state_dict(state, assign=True)
    return product.requires_grad_(False)


def workers(cfg: Config, device: torch.device) -> int:
    return cfg.run.workers if cfg.run.workers >= 0 else loaders(device.type, parallel.local_world())


def micro_batch_sizes(batch_size: int) -> list[int]:
    """Sizes of run.micro_batch that divide the batch and suit the hardware, smallest first; the last is the whole batch."""
    handy = [n for n in range(1, batch_size) if batch_size % n == 0 and (n % 8 == 0 or n in (1, 2, 4))]
    return [*handy, batch_size]


def out_of_memory(cfg: Config) -> UserError:
    """The error for a step that did not fit, with the option to change."""
    now = micro_batch(cfg, parallel.world())
    smaller = [n for n in micro_batch_sizes(cfg.optim.batch_size // parallel.world()) if 2 <= n <= now / 2]
    way_out = f"run.micro_batch={smaller[-1]} or less" if smaller else "a smaller model.size, or smaller heads"
    return UserError(f"out of memory with {now} images at a time: set {way_out}")


@contextmanager
def fitting(cfg: Config) -> Iterator[None]:
    """A lack of memory inside the block becomes a UserError with the option to change."""
    try:
        yield
    except Exception as error:
        if lacking(error) != OUT_OF_MEMORY:
            raise
        raise out_of_memory(cfg) from error


def open_batches(
    cfg: Config, source: Source, start: int, stop: int, device: torch.device, say: Callable[[str], None]
) -> Iterator[list[Views] | list[Photos]]:
    """The batches of steps `start` to `stop` - 1, with crops or with what the device makes them from, as run.device_views says."""
    args = source, cfg, start, stop, workers(cfg, device), device.type == "cuda"
    share, needs = (parallel.rank(), parallel.world()), needs_of(cfg)
    if cfg.run.device_views == "auto" and device.type != "cpu" and not cfg.views.distorted:
        return adaptive_batches(*args, say, share, needs)
    return photo_batches(*args, share, needs) if cfg.run.device_views == "always" else batches(*args, share, needs)


def all_alike(source: Source) -> str:
    """An alarm where some images, spread over the source, are all the same: there is nothing to learn from them."""
    views: list[np.ndarray] = []
    for place in np.linspace(0, len(source) - 1, LOOKED_AT).astype(int):
        with suppress(BrokenImage):
            views.append(eval_view(read_image(source.paths[place]), COMPARED))
    if len(source) < 2 or len(views) < 2 or any((view != views[0]).any() for view in views):
        return ""
    colour = " and of a single colour" if not np.ptp(views[0], axis=(-2, -1)).any() else ""
    return (
        f"ALARM at step 0: {len(views)} images spread over {source.name} are identical{colour}, so nothing can be learned from them. "
        "Remedy: look at the files, and remove copies"
    )


def describe(cfg: Config, source: Source, phase: Phase, method: Method, device: torch.device) -> str:
    trained = sum(p.numel() for p in method.student.parameters() if p.requires_grad)
    precision = name_of(choose_precision(cfg.run.precision, device))
    several = f"{parallel.world()} processes, sharding {cfg.run.sharding}, " if parallel.world() > 1 else ""
    return (
        f"{cfg.method}, {method.product.describe()}, "
        f"{trained / 1e6:.1f} M trained parameters with the heads, "
        f"on {len(source):,} images of {source.name}: {phase.total:,} steps of {cfg.optim.batch_size} "
        f"({phase.total / phase.steps_per_epoch:.1f} epochs), {several}{device} in {precision}, "
        f"attention by {choose_backend(cfg.run.attention, device)}"
    )
