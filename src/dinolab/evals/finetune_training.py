"""Fine-tuning as in DeiT (arXiv 2012.12877, section 6): a copy of the encoder and a linear layer on its class token are trained.

RandAugment, mixup, cutmix, label smoothing, stochastic depth, a running average of the weights, and AdamW with a warm-up and a
cosine are DeiT's (table 9), from timm. To keep pretrained weights where they are most general, lower layers have lower learning
rates, as in BEiT (arXiv 2106.08254); values are those that MAE (arXiv 2111.06377) published for its ViT-B.
DeiT's random erasing is left out: MAE found its effect smaller than the deviation over seeds. So is repeated augmentation.

M test images, C classes.
"""

import copy
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dinolab.data import draws
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals.augmented import Augmented, Training, batches
from dinolab.evals.state import KeptState
from dinolab.features.cache import checksum
from dinolab.features.extract import FeatureSet, extract, joined
from dinolab.models.encoder import BackboneEncoder
from dinolab.models.vit import ViT
from dinolab.precision import autocast, choose_precision, quick_products
from dinolab.progress import track
from dinolab.weights.timm_models import TimmEncoder

try:
    from timm.data import Mixup, create_transform
    from timm.layers import DropPath
    from timm.loss import SoftTargetCrossEntropy
    from timm.models import group_parameters
    from timm.optim import param_groups_layer_decay
    from timm.utils import ModelEmaV3
except ImportError as error:
    raise UserError(f"dinolab eval finetune needs timm: pip install 'dinolab[timm]' ({error})") from error

BASE_BATCH = 256
LAYER_DECAY = 0.65
WEIGHT_DECAY = 0.05  # none for vectors, positions and single tokens
BETAS = (0.9, 0.999)
WARMUP = 0.05  # share of the steps: 5 of 100 epochs
DROP_PATH = 0.1
MIXUP, CUTMIX, SMOOTHING = 0.8, 1.0, 0.1
AUGMENT = (
    "rand-m9-mstd0.5-mmax9-inc1"  # at most 9: at 10 posterising keeps no bit, and new versions of Pillow refuse that
)
EMA = 0.99996  # timm's warm-up begins with lower values: otherwise the first weights would dominate in a short training

# Layers of our backbones, in timm's notation, lowest first; the final norm belongs to the last block, as in timm's own models.
LAYERS = {
    "embeddings": r"cls_token|pos_embed|register_tokens|mask_token|patch_embed|conv1|conv_stem|bn1",
    "blocks": [(r"blocks\.(\d+)", None), (r"layer(\d+)\.(\d+)", None), (r"norm|conv_head|bn2", (99999,))],
}
NOT_DECAYED = ("cls_token", "pos_embed", "register_tokens", "mask_token")  # beside all vectors


class Classifier(nn.Module):
    """A copy of the encoder, and a linear layer on its class token, or on the pooled features in place of one (`width` of them)."""

    def __init__(self, encoder: BackboneEncoder | TimmEncoder, width: int, classes: int) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).float().requires_grad_(True)
        self.head = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], (B, 3, H, W), -> logits (B, classes)."""
        return self.head(self.encoder(images).cls)

    def network(self) -> tuple[str, Any]:
        """The prefix of the backbone's parameter names here, and the backbone, ours or timm's."""
        name = "model" if isinstance(self.encoder, TimmEncoder) else "backbone"
        return f"encoder.{name}.", getattr(self.encoder, name)

    def group_matcher(self, coarse: bool) -> Callable[[str], int]:
        """A function from a parameter's name to its layer, from 0 up; the head is the last. timm calls this."""
        prefix, network = self.network()
        matcher = network.group_matcher(coarse) if hasattr(network, "group_matcher") else LAYERS
        layers = group_parameters(network, matcher, reverse=True)
        return lambda name: layers.get(name.removeprefix(prefix), 1 + max(layers.values()))

    def not_decayed(self) -> set[str]:
        """Names of parameters without weight decay, beside all vectors."""
        prefix, network = self.network()
        return {prefix + name for name in getattr(network, "no_weight_decay", lambda: NOT_DECAYED)()}

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth: the same in all blocks of our ViT, rising to `rate` in timm's; nothing where a network has none."""
        _, network = self.network()
        if isinstance(network, ViT):
            network.cfg.drop_path, network.cfg.drop_path_rates = rate, "uniform"
            return
        places = [
            (m, name) for m in network.modules() for name, _ in m.named_children() if name.startswith("drop_path")
        ]
        for (module, name), drop in zip(places, torch.linspace(0, rate, len(places)).tolist()):
            setattr(module, name, DropPath(drop))


def finetune(
    encoder: Any,
    source: Source,
    train: FeatureSet,
    tests: list[Source],
    size: tuple[int, int],
    training: Training,
    seed: int = 0,
    device: str | torch.device = "cpu",
    workers: int = 0,
    precision: str = "fp32",
    progress: bool = True,
    keep: Path | None = None,
) -> tuple[Tensor, dict[str, Any], list[FeatureSet], Classifier]:
    """Train a copy of the encoder with a linear layer, and predict. The encoder itself does not change.

    Args:
        source: the training images.
        train: features of `source`, which name the images that can be read.
        tests: sets of test images; their labels are not used.
        size: height and width of the views, in pixels.
        keep: file for the state of the training, which continues from there; the caller removes it.

    Returns:
        Probabilities float32 (M, C) for the images of all sets, what was done, each set's features from the trained copy, and that
        copy with its layer.

    Raises:
        UserError: there is a single training image, or the loss is no longer finite.
    """
    images = Augmented([source.paths[i] for i in train.kept], train.labels, Augment(size), seed)
    batch_size = min(training.batch_size, len(images)) // 2 * 2
    if not batch_size:
        raise UserError("mixup needs two images at least: in a batch (batch_size=2 or more) and in all")
    steps = training.steps(len(images), batch_size)
    device = torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), seeded(seed):
        torch.manual_seed(seed)  # of the device, too
        # initial weights have nothing that low rates would keep: then this is plain supervised training
        decay = 1.0 if encoder.info.get("untrained") else LAYER_DECAY
        model = Classifier(encoder, train.matrix().shape[1], len(source.classes)).to(device)
        tuned = train_weights(model, decay, images, batch_size, steps, training, workers, precision, progress, keep)
        how: dict[str, Any] = {"device": device, "workers": workers, "progress": progress, "precision": precision}
        features = [extract(tuned.encoder, test, size, **how) for test in tests]
    with torch.inference_mode():
        rows = joined(features).matrix().split(1024)
        probabilities = torch.cat([tuned.head(x.to(device)).softmax(1).cpu() for x in rows])
    facts = {"epochs": training.epochs, "steps": steps, "batch_size": batch_size, "rate": training.rates[0]}
    return probabilities, facts | {"layer_decay": decay}, features, tuned


@quick_products()  # for the backward pass too
def train_weights(
    model: Classifier,
    decay: float,
    images: Augmented,
    batch_size: int,
    steps: int,
    training: Training,
    workers: int,
    precision: str,
    progress: bool,
    keep: Path | None,
) -> Classifier:
    """Train in place and give the running average of the weights; each layer has `decay` times the rate of the layer above it."""
    began = checksum(model.state_dict(), {})
    device = model.head.weight.device
    model.set_drop_path(DROP_PATH)
    model.train()
    average = ModelEmaV3(model, decay=EMA, use_warmup=True)
    rate = training.rates[0] * batch_size / BASE_BATCH
    optimizer = torch.optim.AdamW(parameter_groups(model, rate, decay), betas=BETAS)
    warmup = round(WARMUP * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, warmup, steps))
    mix = Mixup(MIXUP, CUTMIX, label_smoothing=SMOOTHING, num_classes=model.head.out_features)
    criterion = SoftTargetCrossEntropy()
    per_epoch = max(1, steps // training.epochs)
    parts = {"model": model, "average": average.module, "optimizer": optimizer, "schedule": schedule}
    state = KeptState(keep, f"{began} {images.checksum()} {training} {batch_size} {decay} {precision}", parts)
    start = state.restore()
    in_precision = choose_precision(precision, device)
    loaded = batches(images, steps, batch_size, device, workers, start)
    shown = track(loaded, f"fine-tuning, {training.epochs} epochs", steps, progress, start)
    for step, (views, labels) in enumerate(shown, start + 1):
        draw_from(draws.seed(images.seed, step))  # anew in each step, so that a step is the same after a stop
        mixed, targets = mix(views.float() / 255, labels)
        with autocast(device, in_precision):
            loss = criterion(model(mixed), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update(model, step)
        state.save_now_and_then(step)
        if (step % per_epoch == 0 or step == steps) and not loss.isfinite():
            raise UserError(
                f"the loss is not a number after {step} steps: take a learning rate below lr={training.rates[0]:g}"
            )
    return average.module


def parameter_groups(model: Classifier, rate: float, decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: layer l of L has rate * decay ** (L - l), the head the rate itself."""
    groups = param_groups_layer_decay(model, WEIGHT_DECAY, model.not_decayed(), layer_decay=decay)
    return [group | {"lr": rate * group.pop("lr_scale")} for group in groups]


def warm_cosine(step: int, warmup: int, steps: int) -> float:
    """The factor on all learning rates: a line up to 1, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


class Augment:
    """DeiT's view of an image: random-resized crop, flip, RandAugment."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.transform = create_transform(
            (3, *size), is_training=True, auto_augment=AUGMENT, interpolation="bicubic", normalize=False
        )

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> Tensor:
        with seeded(int(rng.integers(1 << 32))):
            return self.transform(Image.fromarray(image))


def draw_from(seed: int) -> None:
    """Seed all generators, on any device."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside the block, random numbers of Python, numpy and torch on the CPU depend on `seed` alone; after it, not on it."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002, timm draws from it
    try:
        random.seed(seed)
        np.random.seed(seed % (1 << 32))  # noqa: NPY002
        torch.default_generator.manual_seed(seed)  # not the GPU's, which views do not draw from
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
